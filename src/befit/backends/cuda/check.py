"""Refusing batches that would read or write where they must not, which would end the process's CUDA context."""

from __future__ import annotations

import numpy as np

from befit.backends.base import StepBatch


def check_batch(
    batch: StepBatch, *, vocab: int, block_size: int, n_blocks: int, max_tokens: int, max_rows: int
) -> None:
    """Raise ValueError, which is the caller's mistake. One pass of NumPy, whatever the number of sequences."""
    n_tokens, n_rows, n_seqs = len(batch.tokens), len(batch.rows), len(batch.context_len)
    if n_tokens > max_tokens or max(n_rows, n_seqs) > max_rows:
        raise ValueError(
            f"the batch has {n_tokens} tokens, {n_rows} rows and {n_seqs} sequences; the backend was made for "
            f"{max_tokens} tokens, {max_rows} rows and as many sequences"
        )
    if n_tokens == 0 or len(batch.query_start) != n_seqs + 1 or batch.query_start[-1] != n_tokens:
        raise ValueError(f"query_start ends at {batch.query_start[-1:].tolist()} of {n_tokens} tokens")
    if batch.tokens.min() < 0 or batch.tokens.max() >= vocab:
        raise ValueError(f"token ids must be in 0..{vocab - 1}")
    _check_pages(batch, block_size, n_blocks)
    _check_rows(batch, vocab)


def _check_pages(batch: StepBatch, block_size: int, n_blocks: int) -> None:
    lengths, counts = batch.context_len, np.diff(batch.query_start)
    pages = -(-lengths // block_size)
    width = batch.block_tables.shape[1]
    if (counts < 1).any() or (lengths < counts).any() or (pages > width).any():
        raise ValueError(f"contexts of {lengths.tolist()} do not fit {counts.tolist()} queries and {width} pages")
    used = batch.block_tables[np.arange(width)[None, :] < pages[:, None]]
    if used.min() < 0 or used.max() >= n_blocks:
        raise ValueError(f"page {used.max() if used.min() >= 0 else used.min()} of {n_blocks}")
    # Queries are the last positions of their sequences, in order.
    starts = np.repeat(lengths - counts - batch.query_start[:-1], counts)
    if not np.array_equal(batch.positions, starts + np.arange(len(batch.tokens))):
        raise ValueError("positions must rise one by one and end at context_len - 1")


def _check_rows(batch: StepBatch, vocab: int) -> None:
    n_tokens, n_rows, rows = len(batch.tokens), len(batch.rows), batch.rows
    if n_rows and (rows.min() < 0 or rows.max() >= n_tokens or (np.diff(rows) <= 0).any()):
        raise ValueError(f"rows must rise within 0..{n_tokens - 1}")
    if n_rows and batch.targets.max() >= vocab:
        raise ValueError(f"targets must be in 0..{vocab - 1}, or negative to sample")
    if batch.hidden is not None:
        hidden = batch.hidden
        wrong = hidden.min() < 0 or hidden.max() >= n_tokens or len(np.unique(hidden)) < len(hidden)
        if wrong or np.isin(hidden, rows).any():
            raise ValueError(f"hidden must name tokens in 0..{n_tokens - 1}, each once, that are no rows")
    if batch.drafts is None or not (batch.drafts >= 0).any():
        return
    for r in np.flatnonzero(batch.drafts >= 0).tolist():
        after, draft = int(rows[r]) + 1, int(batch.drafts[r])
        if r + 1 >= n_rows or rows[r + 1] != after or batch.samplers[r + 1] is not batch.samplers[r]:
            raise ValueError(f"row {r} has a draft; the next row must be that of the next token, with its sampler")
        if batch.tokens[after] != draft:
            raise ValueError(f"row {r} has draft {draft}, but token {batch.tokens[after]} follows it")
