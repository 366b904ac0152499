"""What the C++ core will take of memory for its buffers, before any weight is read.

The program is lowered as it is for running, with something in the model's place that only counts: so what is fused
here is what is fused there. Sizes are those of `Value::allocate` in native/core/model.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np

from befit.backends.native.lower import Lowering
from befit.models.program import Attention, Embed, Program
from befit.weights.tensor import F32, PackedTensor

_GROUP = 32  # columns that a buffer's width is rounded up to
_BLOCK_TOKENS = 16  # tokens of a block of integers
_CHUNK = 256  # KV tokens of one partial result of attention
_QUERIES = 16  # of a block of attention
_EXTRA = 16  # floats of a partial result besides the values
_UNITS = 8  # units of attention a thread


@dataclass(frozen=True, slots=True)
class Buffers:
    """Bytes that buffers take: a token of a step, a block of 16 tokens, a row of logits, a thread.

    splits: by shape of attention, KV heads, queries that share one, and bytes of a query's partial result.
    """

    token: int = 0
    block: int = 0
    row: int = 0
    thread: int = 0
    splits: tuple[tuple[int, int, int], ...] = ()

    def exact(self, tokens: int, rows: int, threads: int) -> int:
        """Bytes that the core allocates at once, for steps of at most so many tokens and rows."""
        blocks = -(-tokens // _BLOCK_TOKENS)
        return tokens * self.token + blocks * self.block + rows * self.row + threads * self.thread

    def total(self, tokens: int, rows: int, threads: int, ctx: int) -> int:
        """Those, and at most what the partial results of attention over `ctx` positions take besides.

        A step with few blocks of queries is split up over the positions, so that all threads have work: see `make` in
        native/core/plan.cpp.
        """
        split = 0
        for kv_heads, share, result in self.splits if threads > 1 else ():
            blocks = min(-(-tokens // _QUERIES), _UNITS * threads // kv_heads)
            split += kv_heads * blocks * -(-ctx // _CHUNK) * _QUERIES * share * result
        return self.exact(tokens, rows, threads) + split


def buffers(program: Program, shapes: Mapping[str, tuple[int, ...]], dense: Set[str] = frozenset()) -> Buffers:
    """The buffers of a program whose weights have these shapes; all matrices but `dense` ones are quantised.

    Raises UnsupportedModel for a program that the native backend does not run.
    """
    weights = {
        name: PackedTensor(name, (shape[0], shape[-1]), "", name not in dense, -1, 0, 0)
        for name, shape in shapes.items()
    }
    counting = _Counting()
    _Sizing(cast(Any, counting), program, weights).run()
    shapes_seen = {(op.n_kv_heads, op.n_heads // op.n_kv_heads, op.head_dim, op.window) for op in program.attentions()}
    splits = tuple((kv, share, 4 * (dim + _EXTRA)) for kv, share, dim, _ in sorted(shapes_seen, key=str))
    return replace(counting.found, splits=splits)


class _Counting:
    """In the model's place: adds up what values and rotations take, and computes nothing."""

    def __init__(self) -> None:
        self.found = Buffers()
        self.values = 0

    def value(self, width: int, floats: bool, quantized: bool, local: bool) -> int:
        found = self.found
        width = -(-width // _GROUP) * _GROUP
        groups = width // _GROUP
        pairs = (groups + 1) // 2
        # See QAct: the integers' two planes, scales, sums of half groups, and the sums' parts.
        integers = _BLOCK_TOKENS * (pairs * 2 * 2 * _GROUP + 4 + groups * 2 * 4 + pairs * 4 * 2)
        own = (4 * width if floats and local else 0) + (integers if quantized else 0)
        self.found = replace(
            found,
            token=found.token + (4 * width if floats else 0),
            block=found.block + (integers if quantized else 0),
            thread=found.thread + own,
        )
        self.values += 1
        return self.values

    def logits(self, vocab: int) -> None:
        self.found = replace(self.found, row=4 * -(-vocab // _GROUP) * _GROUP)

    def rope(self, dim: int, interleaved: bool, scale: float, inv_freq: list[float]) -> int:
        self.found = replace(self.found, token=self.found.token + 4 * dim)
        return 0

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


class _Sizing(Lowering):
    """A lowering that looks at no weight."""

    model: Any

    def _embed(self, i: int, op: Embed) -> None:
        self._write(i)

    def _logits_value(self) -> int:
        self.model.logits(self.program.vocab_size)
        return 0

    def _matrix(self, name: str) -> int:
        return 0

    def _vector(self, name: str) -> F32:
        return np.empty(0, np.float32)

    def _bias_of_keys(self, i: int, op: Attention) -> F32 | None:
        return None
