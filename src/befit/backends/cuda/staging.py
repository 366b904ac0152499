"""A step's numbers in one buffer: written on the host, copied to the device in one transfer, read there as views.

The device buffer never moves, so a captured graph can read it: a step of the same shape finds its numbers in the same
places.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from befit.backends.base import I32, StepBatch


@dataclass(frozen=True, slots=True)
class Shape:
    """What decides where things lie: T tokens, S sequences, R rows with logits, H without, B pages a table.

    decode: each sequence has one token. Then T = S.
    """

    tokens: int
    seqs: int
    rows: int
    hidden: int
    pages: int
    decode: bool

    @property
    def words(self) -> int:
        """int32 that it takes."""
        return 3 * self.tokens + self.seqs + self.rows + self.hidden + self.seqs * self.pages


@dataclass(frozen=True, slots=True)
class StepInput:
    """Views of the device buffer, all int32: tokens, positions, slots [T], context [S], rows [R + H], tables [S, B].

    slots: where a token's key and value go: page * page size + place. query_start [S + 1] and lengths [S] are on the
    host, for steps that are not decodes.
    """

    shape: Shape
    tokens: torch.Tensor
    positions: torch.Tensor
    slots: torch.Tensor
    context: torch.Tensor
    rows: torch.Tensor
    tables: torch.Tensor
    query_start: I32
    lengths: I32


def shape_of(batch: StepBatch, block_size: int) -> Shape:
    """The shape that just holds the batch."""
    n_seqs = len(batch.context_len)
    hidden = 0 if batch.hidden is None else len(batch.hidden)
    pages = -(-int(batch.context_len.max()) // block_size)
    return Shape(len(batch.tokens), n_seqs, len(batch.rows), hidden, pages, len(batch.tokens) == n_seqs)


class Staging:
    """The pair of buffers. `scratch` is a page that belongs to nobody, for sequences that only fill up a bucket."""

    def __init__(self, words: int, device: torch.device, *, block_size: int, scratch: int) -> None:
        self._host = torch.zeros(words, dtype=torch.int32, pin_memory=device.type == "cuda")
        self._array: I32 = self._host.numpy()
        self._device = torch.zeros(words, dtype=torch.int32, device=device)
        self._block_size = block_size
        self._scratch = scratch

    @property
    def nbytes(self) -> int:
        """Bytes on the device."""
        return int(self._device.nbytes)

    def load(self, batch: StepBatch, shape: Shape) -> StepInput:
        """Write the batch, padded to `shape`, and send it. Padding is sequences of one token on the scratch page."""
        n_tokens, n_seqs = len(batch.tokens), len(batch.context_len)
        views = self._views(self._array, shape)
        tokens, positions, slots, context, rows, tables = views
        tokens[:n_tokens], tokens[n_tokens:] = batch.tokens, 0
        positions[:n_tokens], positions[n_tokens:] = batch.positions, 0
        context[:n_seqs], context[n_seqs:] = batch.context_len, 1
        tables[:] = self._scratch
        width = min(shape.pages, batch.block_tables.shape[1])
        # Entries behind a sequence's pages may be anything; the scratch page is always there to be read.
        pages = -(-batch.context_len // self._block_size)
        np.copyto(
            tables[:n_seqs, :width], batch.block_tables[:, :width], where=np.arange(width)[None, :] < pages[:, None]
        )
        owner = np.repeat(np.arange(n_seqs), np.diff(batch.query_start))
        places = batch.positions // self._block_size
        slots[:n_tokens] = tables[owner, places] * self._block_size + batch.positions % self._block_size
        slots[n_tokens:] = self._scratch * self._block_size
        chosen = batch.rows if batch.hidden is None else np.concatenate((batch.rows, batch.hidden))
        rows[: len(chosen)], rows[len(chosen) :] = chosen, 0
        self._device[: shape.words].copy_(self._host[: shape.words], non_blocking=True)
        return self._input(shape, batch.query_start, batch.context_len)

    def _input(self, shape: Shape, query_start: I32, lengths: I32) -> StepInput:
        tokens, positions, slots, context, rows, tables = self._views(self._device, shape)
        return StepInput(shape, tokens, positions, slots, context, rows, tables, query_start, lengths)

    @staticmethod
    def _views(buffer: I32 | torch.Tensor, shape: Shape) -> tuple[I32, I32, I32, I32, I32, I32]:
        """The parts of a buffer, of NumPy or torch alike."""
        parts = []
        at = 0
        for size in (shape.tokens, shape.tokens, shape.tokens, shape.seqs, shape.rows + shape.hidden):
            parts.append(buffer[at : at + size])
            at += size
        tokens, positions, slots, context, rows = parts
        tables = buffer[at : at + shape.seqs * shape.pages].reshape(shape.seqs, shape.pages)
        return tokens, positions, slots, context, rows, tables
