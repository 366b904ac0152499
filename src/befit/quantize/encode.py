"""Float rows to the blocks of a GGML format: the other direction of `weights.blocks`, whose layouts they are.

Work goes in pieces that stay in a core's cache, several at once: NumPy lets go of the GIL.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from befit.quantize.rtn import F32, affine, as_f16, as_is, error, quantised, symmetric
from befit.weights.blocks import Q4_0, Q4_1, Q4_K, Q6_K, Q8_0
from befit.weights.tensor import U8, QuantFormat

PIECE = 1 << 17
"""Weights that are encoded at once by a thread."""

LARGEST = 60000.0
"""A scale is a half, which ends at 65504. No sound model has a weight near it."""


def encode_rows(
    fmt: QuantFormat, rows: F32, importance: F32 | None = None, *, search: bool = True, threads: int = 1
) -> U8:
    """Rows [R, C] as uint8 [R, C / block * block_bytes].

    importance [C], not below 0: how much an error in each column matters; None: what ggml assumes where nothing is
    known, more for larger weights. Without `search` scales are plain. Raises ValueError for columns that are no whole
    blocks, a format that has no encoder, and weights that are not finite or beyond `LARGEST`.
    """
    if rows.ndim != 2 or rows.shape[1] % fmt.block:
        raise ValueError(f"rows of shape {list(rows.shape)} are no whole blocks of {fmt.block}")
    if fmt.name not in _ENCODERS:
        raise ValueError(f"nothing encodes {fmt.name}; {', '.join(_ENCODERS)} can be written")
    n, columns = rows.shape
    out = np.empty((n, columns // fmt.block * fmt.block_bytes), np.uint8)
    step = max(1, PIECE // columns)

    def piece(start: int) -> None:
        part = np.ascontiguousarray(rows[start : start + step], dtype=np.float32)
        furthest = np.abs(part).max(initial=0.0)
        if not furthest <= LARGEST:
            raise ValueError(f"a weight of {furthest}, where finite ones up to {LARGEST:g} can be encoded")
        out[start : start + step] = _blocks(fmt, part, importance, search).reshape(len(part), -1)

    starts = range(0, n, step)
    if threads == 1 or len(starts) == 1:
        for start in starts:
            piece(start)
    else:
        with ThreadPoolExecutor(threads, thread_name_prefix="befit-encode") as pool:
            for _ in pool.map(piece, starts):
                pass
    return out


def _blocks(fmt: QuantFormat, part: F32, importance: F32 | None, search: bool) -> U8:
    """All blocks of some rows, [N, block_bytes]."""
    x = part.reshape(-1, fmt.group)
    if not search or fmt is Q8_0:  # at 8 bits there is nothing to win
        w = None
    elif importance is None:
        w = np.abs(x) + np.sqrt((x * x).mean(axis=1, keepdims=True))
    else:
        spread = np.sqrt(x * x + (x * x).mean(axis=1, keepdims=True))
        w = np.tile(importance.reshape(-1, fmt.group), (len(part), 1)) * spread
    return _ENCODERS[fmt.name](_groups_as_columns(x), None if w is None else _groups_as_columns(w), search)


def _groups_as_columns(x: F32) -> F32:
    return np.ascontiguousarray(x.T, dtype=np.float32)


# Each encoder takes x and w as [group, N groups] and returns uint8 [N blocks, block_bytes].


def _f16_bytes(x: F32) -> U8:
    """[N] → [N, 2]."""
    return x.astype("<f2").view(np.uint8).reshape(-1, 2)


def _nibbles(q: F32) -> U8:
    """[32, N] of 0..15 → [N, 16]: weights 0-15 in low halves, 16-31 in high halves."""
    whole = q.astype(np.uint8)
    return np.ascontiguousarray((whole[:16] | whole[16:] << 4).T)


def _q4_0(x: F32, w: F32 | None, search: bool) -> U8:
    s = symmetric(x, w, 4, as_f16, search=search)
    q = quantised(x, s, np.zeros_like(s), -8, 7)
    return np.concatenate([_f16_bytes(s), _nibbles(q + 8)], axis=1)


def _q4_1(x: F32, w: F32 | None, search: bool) -> U8:
    s, b = affine(x, w, 15, as_f16, search=search)
    return np.concatenate([_f16_bytes(s), _f16_bytes(b), _nibbles(quantised(x, s, b, 0, 15))], axis=1)


def _q8_0(x: F32, w: F32 | None, search: bool) -> U8:
    # -128 is left out, as by every writer of this format: some readers negate the integers.
    s = as_f16(np.abs(x).max(axis=0) / np.float32(127))
    q = quantised(x, s, np.zeros_like(s), -127, 127).astype(np.int8)
    return np.concatenate([_f16_bytes(s), np.ascontiguousarray(q.T).view(np.uint8)], axis=1)


def _q4_k(x: F32, w: F32 | None, search: bool) -> U8:
    """Eight groups share two halves: their scales and minimums are 6-bit multiples of them."""

    def stored(s: F32, b: F32) -> tuple[U8, F32, F32]:
        """What 16 bytes a block hold, and the s and b of each group that a reader makes of it."""
        least = -b.reshape(-1, 8)
        scale = s.reshape(-1, 8)
        d = as_f16(scale.max(axis=1) / np.float32(63))
        dmin = as_f16(least.max(axis=1) / np.float32(63))
        zero = np.zeros_like(d)
        scales, minimums = quantised(scale.T, d, zero, 0, 63).T, quantised(least.T, dmin, zero, 0, 63).T
        head = np.concatenate([_f16_bytes(d), _f16_bytes(dmin), _six_bits(scales, minimums)], axis=1)
        return head, (scales * d[:, None]).reshape(-1), (-minimums * dmin[:, None]).reshape(-1)

    def block_errors(s: F32, b: F32) -> F32:
        total: F32 = error(x, w, quantised(x, s, b, 0, 15), s, b).reshape(-1, 8).sum(axis=1)
        return total

    head, s, b = stored(*affine(x, w, 15, as_is, below_zero=True, search=False))
    if search:
        # Rounding eight scales together may undo what the search found for one of them; then the plain ones stay.
        new_head, new_s, new_b = stored(*affine(x, w, 15, as_is, below_zero=True))
        better = block_errors(new_s, new_b) < block_errors(s, b)
        head = np.where(better[:, None], new_head, head)
        s, b = (np.where(np.repeat(better, 8), new, old) for new, old in ((new_s, s), (new_b, b)))
    q = quantised(x, s, b, 0, 15).astype(np.uint8).T.reshape(-1, 4, 2, 32)
    return np.concatenate([head, (q[:, :, 0] | q[:, :, 1] << 4).reshape(-1, 128)], axis=1)


def _six_bits(scales: F32, minimums: F32) -> U8:
    """[N, 8] each, of 0..63, → [N, 12]; the layout is `weights.blocks._k_scales`."""
    s, m = scales.astype(np.uint8), minimums.astype(np.uint8)
    first = s[:, :4] | s[:, 4:] >> 4 << 6
    second = m[:, :4] | m[:, 4:] >> 4 << 6
    third = s[:, 4:] & 15 | (m[:, 4:] & 15) << 4
    return np.concatenate([first, second, third], axis=1)


def _q6_k(x: F32, w: F32 | None, search: bool) -> U8:
    """Sixteen groups of 16 share a half: their scales are signed 8-bit multiples of it."""

    def stored(s: F32) -> tuple[F32, F32, F32]:
        """The half and the multiples, [N] and [N, 16], and the s of each group that a reader makes of them."""
        scale = s.reshape(-1, 16)
        furthest = np.take_along_axis(scale, np.abs(scale).argmax(axis=1)[:, None], axis=1)[:, 0]
        d = as_f16(furthest / np.float32(-128))
        multiples = quantised(scale.T, d, np.zeros_like(d), -128, 127).T
        return d, multiples, (multiples * d[:, None]).reshape(-1)

    def block_errors(s: F32) -> F32:
        zero = np.zeros_like(s)
        total: F32 = error(x, w, quantised(x, s, zero, -32, 31), s, zero).reshape(-1, 16).sum(axis=1)
        return total

    d, multiples, s = stored(symmetric(x, w, 6, as_is, search=False))
    if search:
        new_d, new_multiples, new_s = stored(symmetric(x, w, 6, as_is))
        better = block_errors(new_s) < block_errors(s)
        d = np.where(better, new_d, d)
        multiples = np.where(better[:, None], new_multiples, multiples)
        s = np.where(np.repeat(better, 16), new_s, s)
    q = (quantised(x, s, np.zeros_like(s), -32, 31) + 32).astype(np.uint8).T.reshape(-1, 2, 4, 32)
    low, top = q & 15, q >> 4
    nibbles = (low[:, :, :2] | low[:, :, 2:] << 4).reshape(-1, 128)
    pairs = (top[:, :, 0] | top[:, :, 1] << 2 | top[:, :, 2] << 4 | top[:, :, 3] << 6).reshape(-1, 64)
    return np.concatenate([nibbles, pairs, multiples.astype(np.int8).view(np.uint8), _f16_bytes(d)], axis=1)


_ENCODERS: dict[str, Callable[[F32, F32 | None, bool], U8]] = {
    Q4_0.name: _q4_0,
    Q4_1.name: _q4_1,
    Q8_0.name: _q8_0,
    Q4_K.name: _q4_k,
    Q6_K.name: _q6_k,
}
