"""Batches for a backend, without an engine: sequences that own pages, and steps over some of their tokens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from befit.backends.base import Backend, SamplerSpec, StepBatch, StepResult


@dataclass
class Seq:
    """A sequence: its pages, in order, and how many of its tokens have their keys and values in them."""

    pages: list[int]
    length: int = 0


def make_batch(
    block_size: int,
    work: Sequence[tuple[Seq, Sequence[int]]],
    *,
    rows: str = "all",
    targets: Iterable[int] | None = None,
    samplers: list[Any] | None = None,
    logprobs: Iterable[int] | None = None,
) -> StepBatch:
    """The step that appends the given tokens to each sequence; `rows` asks for "all" of them or each one's "last".

    Sequences grow as if the step had run. Without targets and samplers, every row scores token 0.
    """
    tokens, positions, start, lengths = [], [], [0], []
    for seq, new in work:
        tokens += list(new)
        positions += range(seq.length, seq.length + len(new))
        seq.length += len(new)
        assert seq.length <= len(seq.pages) * block_size, "the test gave this sequence too few pages"
        start.append(len(tokens))
        lengths.append(seq.length)
    tables = np.zeros((len(work), max(len(seq.pages) for seq, _ in work)), np.int32)
    for i, (seq, _) in enumerate(work):
        tables[i, : len(seq.pages)] = seq.pages
    chosen = range(len(tokens)) if rows == "all" else [end - 1 for end in start[1:]]
    if samplers is None:
        samplers = [None] * len(chosen)
    if targets is None:
        targets = [0 if sampler is None else -1 for sampler in samplers]

    def ints(values: Iterable[int]) -> npt.NDArray[np.int32]:
        return np.array(list(values), np.int32)

    return StepBatch(
        tokens=ints(tokens),
        positions=ints(positions),
        query_start=ints(start),
        context_len=ints(lengths),
        block_tables=tables,
        rows=ints(chosen),
        targets=ints(targets),
        samplers=samplers,
        logprobs=ints(logprobs if logprobs is not None else [-1] * len(chosen)),
    )


def logits_of(
    backend: Backend, tokens: Sequence[int], *, pages: list[int] | None = None, chunks: Sequence[int] | None = None
) -> npt.NDArray[np.float32]:
    """Logits [len(tokens), vocab] of one sequence, computed in one step or in chunks of the given sizes."""
    seq = Seq(pages if pages is not None else list(range(-(-len(tokens) // backend.block_size))))
    parts, done = [], 0
    for size in chunks or [len(tokens)]:
        parts.append(backend.logits(make_batch(backend.block_size, [(seq, tokens[done : done + size])])))
        done += size
    assert done == len(tokens), "chunks must cover the tokens"
    return np.concatenate(parts)


def generate(
    backend: Backend, prompt: Sequence[int], n: int, spec: SamplerSpec | None = None, *, logprobs: int = -1
) -> list[StepResult]:
    """One sequence alone: the results of n steps, prompt first; `.tokens[0]` of each is what was sampled."""
    seq = Seq(list(range(-(-(len(prompt) + n) // backend.block_size))))
    sampler = backend.new_sampler(spec or SamplerSpec(), list(prompt))
    results: list[StepResult] = []
    new = list(prompt)
    for _ in range(n):
        batch = make_batch(backend.block_size, [(seq, new)], rows="last", samplers=[sampler], logprobs=[logprobs])
        results.append(backend.step(batch))
        new = [int(results[-1].tokens[0])]
    return results
