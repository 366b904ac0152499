"""The arithmetic of each op in NumPy float32, in the order of its formula. Matrices are [rows, columns]."""

from __future__ import annotations

import math

import numpy as np

from befit.backends.base import F32, I32
from befit.models.program import Activation, Rope


def rms_norm(x: F32, weight: F32, eps: float) -> F32:
    """x / sqrt(mean(x²) + eps) * weight, over the last axis (Zhang & Sennrich, arXiv 1910.07467)."""
    mean_square: F32 = (x * x).mean(axis=-1, keepdims=True)
    normed: F32 = x / np.sqrt(mean_square + np.float32(eps))
    return normed * weight


def layer_norm(x: F32, weight: F32, bias: F32 | None, eps: float) -> F32:
    """(x - mean(x)) / sqrt(var(x) + eps) * weight + bias, over the last axis; var divides by n (arXiv 1607.06450)."""
    centred: F32 = x - x.mean(axis=-1, keepdims=True)
    variance: F32 = (centred * centred).mean(axis=-1, keepdims=True)
    normed: F32 = centred / np.sqrt(variance + np.float32(eps)) * weight
    return normed if bias is None else normed + bias


def linear(x: F32, weight: F32, bias: F32 | None = None) -> F32:
    """x [T, in] times weight [out, in] transposed, plus bias [out]."""
    product: F32 = x @ weight.T
    return product if bias is None else product + bias


def activation(x: F32, fn: Activation) -> F32:
    """The three activations (Hendrycks & Gimpel, arXiv 1606.08415, for both GELUs).

    silu       x * 1 / (1 + e^-x)
    gelu_tanh  x * (1 + tanh(sqrt(2/π) * (x + 0.044715 x³))) / 2
    gelu_erf   x * (1 + erf(x / sqrt(2))) / 2
    """
    factor: F32
    if fn == "silu":
        factor = np.reciprocal(1 + np.exp(-x))
    elif fn == "gelu_tanh":
        inner = np.float32(math.sqrt(2 / math.pi)) * (x + np.float32(0.044715) * x**3)
        factor = np.float32(0.5) * (1 + np.tanh(inner))
    else:
        erf = np.vectorize(math.erf, otypes=[np.float32])
        factor = np.float32(0.5) * (1 + erf(x / np.float32(math.sqrt(2))))
    return x * factor


def rotate(x: F32, positions: I32, rope: Rope) -> F32:
    """Turn the first rope.dim components of every head. x is [T, heads, head_dim], positions [T].

    A pair (a, b) becomes (a cos - b sin, a sin + b cos), both times rope.scale; which components pair up, see `Rope`.
    """
    angles = positions[:, None].astype(np.float64) * np.asarray(rope.inv_freq)
    cos = (np.cos(angles) * rope.scale).astype(np.float32)[:, None, :]
    sin = (np.sin(angles) * rope.scale).astype(np.float32)[:, None, :]
    half = rope.dim // 2
    first, second = (
        (slice(0, rope.dim, 2), slice(1, rope.dim, 2)) if rope.interleaved else (slice(0, half), slice(half, rope.dim))
    )
    out = x.copy()
    a, b = x[..., first], x[..., second]
    out[..., first] = a * cos - b * sin
    out[..., second] = a * sin + b * cos
    return out


def attend(q: F32, k: F32, v: F32, q_positions: I32, scale: float, window: int | None) -> F32:
    """Causal grouped-query attention of one sequence.

    q is [T, n_heads, d]; k and v are [n, n_kv_heads, d] for positions 0..n-1; query head i reads KV head
    i // (n_heads / n_kv_heads). A query at position p sees positions t with p - window < t <= p. Returns like q.
    """
    n_queries, n_heads, d = q.shape
    n, n_kv_heads, _ = k.shape
    group = n_heads // n_kv_heads
    t, p = np.arange(n)[None, :], q_positions[:, None]
    seen = t <= p if window is None else (t <= p) & (t > p - window)

    grouped = q.reshape(n_queries, n_kv_heads, group, d).transpose(1, 2, 0, 3)
    scores = grouped @ k.transpose(1, 2, 0)[:, None] * np.float32(scale)
    scores = np.where(seen, scores, np.float32(-np.inf))
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    out: F32 = weights @ v.transpose(1, 0, 2)[:, None]
    return out.transpose(2, 0, 1, 3).reshape(n_queries, n_heads, d)
