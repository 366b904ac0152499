"""What flows into a model's matrices when it reads a text: the program run op by op, with one matrix at a time.

The ops are those of the reference backend, in float32. Weights are decoded a few rows at a time and dropped again, so
the memory needed is that of the activations and of one piece of a matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np

from befit.backends.base import F32
from befit.backends.reference import ops
from befit.models.program import Act, Add, Attention, Embed, GatedAct, Linear, Logits, Norm, Program
from befit.weights.tensor import MadeTensor, QuantTensor, Tensor

SLAB = 1 << 22
"""Weights of a matrix that are decoded at once, at most."""
PIECES = 4
"""Pieces of a matrix, at least, so that several threads have work."""

Spread: TypeAlias = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]
"""`map`, or that of a pool of threads. The pieces are the same, so results do not depend on which."""


def run(
    program: Program,
    tensors: Mapping[str, Tensor],
    sequences: Sequence[Sequence[int]],
    visit: Callable[[int, F32], None],
    *,
    spread: Spread = map,
    release: Callable[[Tensor], None] = lambda tensor: None,
) -> F32:
    """Read `sequences` of token ids and call visit(op index, value) for what each op but the last writes.

    Values are [T, width] over all tokens, sequence after sequence; visit must not change them. release(tensor) is
    called when a tensor is not needed for now. Returns what the head reads.
    """
    tokens = np.concatenate([np.asarray(sequence, np.int64) for sequence in sequences])
    ends = np.cumsum([len(sequence) for sequence in sequences]).tolist()
    spans = [slice(end - len(sequence), end) for end, sequence in zip(ends, sequences, strict=True)]
    values: dict[str, F32] = {}

    def vector(name: str | None) -> F32 | None:
        return tensors[name].dequantize() if name else None

    for i, op in enumerate(program.ops):
        match op:
            case Embed():
                values[op.out] = rows_of(tensors[op.weight], tokens) * np.float32(op.scale)
            case Norm():
                weight = tensors[op.weight].dequantize()
                x = values[op.x]
                values[op.out] = (
                    ops.layer_norm(x, weight, vector(op.bias), op.eps)
                    if op.kind == "layer"
                    else ops.rms_norm(x, weight, op.eps)
                )
            case Linear():
                values[op.out] = product(values[op.x], tensors[op.weight], vector(op.bias), spread)
                release(tensors[op.weight])
            case Attention():
                values[op.out] = _attention(op, values, spans, vector, spread)
            case Act():
                values[op.out] = ops.activation(values[op.x], op.fn)
            case GatedAct():
                values[op.out] = ops.activation(values[op.gate], op.fn) * values[op.up]
            case Add():
                values[op.out] = values[op.a] + values[op.b]
            case Logits():
                return values[op.x]
        visit(i, values[op.out])
    raise ValueError("the program does not end in Logits")


def product(x: F32, matrix: Tensor, bias: F32 | None = None, spread: Spread = map) -> F32:
    """x [T, columns] times the matrix transposed, plus bias; the matrix is decoded in pieces."""
    rows, columns = matrix.shape[0], matrix.shape[1]
    matrix = held_in_memory(matrix)
    out = np.empty((len(x), rows), np.float32)
    step = max(1, min(SLAB // columns, -(-rows // PIECES)))

    def piece(start: int) -> None:
        np.matmul(x, matrix.dequantize(start, start + step).T, out=out[:, start : start + step])

    for _ in spread(piece, range(0, rows, step)):
        pass
    if bias is not None:
        out += bias
    return out


def rows_of(table: Tensor, ids: np.ndarray) -> F32:
    """Some rows of a matrix or elements of a vector, [len(ids), …]."""
    if isinstance(table, QuantTensor):
        return QuantTensor(table.name, (len(ids), table.shape[1]), table.format, table.raw[ids]).dequantize()
    return replace(table, shape=(len(ids), *table.shape[1:]), data=table.data[ids]).dequantize()


def held_in_memory(tensor: Tensor) -> Tensor:
    """The tensor, or with blocks made once if they would be made anew for each piece that is read."""
    if isinstance(tensor, MadeTensor):
        return QuantTensor(tensor.name, tensor.shape, tensor.format, tensor.raw)
    return tensor


def _attention(
    op: Attention,
    values: Mapping[str, F32],
    spans: list[slice],
    vector: Callable[[str | None], F32 | None],
    spread: Spread,
) -> F32:
    """The attention of each sequence, without a cache."""
    q, k, v = (
        values[name].reshape(-1, heads, op.head_dim)
        for name, heads in ((op.q, op.n_heads), (op.k, op.n_kv_heads), (op.v, op.n_kv_heads))
    )
    q_norm, k_norm = vector(op.q_norm), vector(op.k_norm)
    if q_norm is not None:
        q = ops.rms_norm(q, q_norm, op.norm_eps)
    if k_norm is not None:
        k = ops.rms_norm(k, k_norm, op.norm_eps)
    out = np.empty_like(q)

    def sequence(span: slice) -> None:
        positions = np.arange(span.stop - span.start, dtype=np.int32)
        queries, keys = q[span], k[span]
        if op.rope:
            queries, keys = ops.rotate(queries, positions, op.rope), ops.rotate(keys, positions, op.rope)
        out[span] = ops.attend(queries, keys, v[span], positions, op.scale, op.window)

    for _ in spread(sequence, spans):
        pass
    return out.reshape(len(q), op.n_heads * op.head_dim)
