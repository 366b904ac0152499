"""What the CUDA backend takes of a card, by arithmetic and before torch is imported. The KV pool is not in it.

Weights are exact. Of a step it is an upper bound: every value of the program as float32 under a name of its own, twice
for the steps that are recorded, and the largest pieces that sampling and plain torch work on at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from befit.backends.cuda.planes import bits_per_weight
from befit.models.program import Act, Add, Attention, Embed, GatedAct, Linear, Logits, Norm, Program
from befit.weights.blocks import ALL_FORMATS

DEQUANTISED_BYTES = 64 << 20
"""A quantised matrix is dequantised at most so many bytes at a time where no kernel does it."""
ATTENTION_BYTES = 128 << 20
"""Gathered keys, or scores, of attention in plain torch at a time, if one sequence or query does not take more."""
ROWS_AT_ONCE = 16
"""Rows of logits that are sorted together, in float64."""
SORTED_BYTES = 64
"""What that takes for a row and token of the vocabulary."""
CHUNK = 256
MOST_CHUNKS = 64
"""Positions of a chunk of decode attention; contexts of more chunks have longer ones."""
BUCKETS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256)
"""Sequences that a recorded decode step has."""


def weight_bytes(form: str, shape: tuple[int, ...], element: int = 2) -> int:
    """Bytes of a weight on the device: vectors are float32, dense matrices `element` bytes (4 on a CPU)."""
    if form in ALL_FORMATS:
        return round(prod(shape) * bits_per_weight(ALL_FORMATS[form]) / 8)
    return prod(shape) * (4 if len(shape) == 1 else element)


def fp8_bytes(shape: tuple[int, ...], tall: int, wide: int) -> int:
    """Bytes of a matrix of e4m3 on the device, with a float32 scale a row, or a block of rows and columns."""
    rows, cols = shape
    return rows * cols + 4 * (rows if wide >= cols else -(-rows // tall) * -(-cols // wide))


def step_bytes(program: Program, shapes: Mapping[str, tuple[int, ...]], tokens: int, rows: int, ctx: int) -> int:
    """Bytes of steps of `tokens` tokens, `rows` of them with logits, in contexts of `ctx` tokens."""
    widths: dict[str, int] = {}
    partial = 0
    for op in program.ops:
        match op:
            case Embed():
                widths[op.out] = program.hidden_size
            case Linear():
                widths[op.out] = max(shapes[op.weight][0], widths.get(op.out, 0))
            case Attention():
                widths[op.out] = op.n_heads * op.head_dim
                partial = max(partial, 4 * op.n_heads * (op.head_dim + 2) * min(MOST_CHUNKS, -(-ctx // CHUNK)))
            case Norm():
                widths[op.out] = shapes[op.weight][0]
            case Act():
                widths[op.out] = widths[op.x]
            case GatedAct():
                widths[op.out] = widths[op.up]
            case Add():
                widths[op.out] = widths[op.a]
            case _:
                pass
    recorded = min(rows, BUCKETS[-1])
    values = 4 * sum(widths.values()) * (tokens + recorded)
    tables = 4 * (5 * tokens + rows * -(-ctx // 16))
    fixed = values + tables + 2 * rows * partial + 4 * DEQUANTISED_BYTES + 3 * ATTENTION_BYTES
    if not isinstance(program.ops[-1], Logits):
        return fixed
    logits = 6 * program.vocab_size * (rows + recorded) + 16 * program.vocab_size * rows
    sampling = SORTED_BYTES * min(rows, ROWS_AT_ONCE) * program.vocab_size
    return fixed + logits + sampling
