"""What keys have in common, taken from them before they are rounded to 8 bits.

Adding one vector to all keys adds the same number to all of a query's scores, which softmax does not see. Biases of
keys can be a hundred times as large as what distinguishes keys (Qwen2.5), and would take all of the 8 bits.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from befit.models.program import Attention, Linear, Op
from befit.weights.tensor import F32

POSITIONS = 4096
"""The mean is over so many positions. Channels that turn slowly keep their bias in it; in fast ones it cancels out."""


def bias_of_keys(ops: Sequence[Op], i: int) -> str | None:
    """The bias of the matrix that the keys of op i, an attention, come from directly, if it has one."""
    attention = ops[i]
    assert isinstance(attention, Attention)
    writer = next(op for op in reversed(ops[:i]) if getattr(op, "out", None) == attention.k)
    return writer.bias if isinstance(writer, Linear) else None


def key_center(op: Attention, bias: F32 | None) -> F32 | None:
    """Mean of the rotated bias over positions, [n_kv_heads * head_dim], or None when there is nothing to take away."""
    if bias is None or op.k_norm:
        return None
    center = bias.reshape(op.n_kv_heads, op.head_dim).astype(np.float64)
    if rope := op.rope:
        angles = np.arange(POSITIONS)[:, None] * np.asarray(rope.inv_freq)
        cos, sin = np.cos(angles).mean(0) * rope.scale, np.sin(angles).mean(0) * rope.scale
        half = rope.dim // 2
        first, second = (
            (slice(0, rope.dim, 2), slice(1, rope.dim, 2))
            if rope.interleaved
            else (slice(0, half), slice(half, rope.dim))
        )
        a, b = center[:, first].copy(), center[:, second].copy()
        center[:, first], center[:, second] = a * cos - b * sin, a * sin + b * cos
    return center.reshape(-1).astype(np.float32)
