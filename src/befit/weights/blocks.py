"""Block formats as canonical integers: `w = s * q - m`.

A block format packs a row in blocks of 32 or 256 weights, each block with its own scales. The layouts are those of
ggml's `ggml-common.h` (structs `block_q4_0` … `block_q6_K`); all numbers are little-endian. In float32 every s and m
below is exact: a float16 has 11 significant bits, a sub-scale at most 8 more.

Two formats of befit's own hold what AWQ, GPTQ and compressed-tensors say exactly: `w = s * (q - zero)` with a whole
zero and a scale in float16 or bfloat16.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from befit.weights.tensor import F32, U8, QuantFormat, Unpacked

Q4_0 = QuantFormat("q4_0", block=32, block_bytes=18, bits=4, group=32, zero=8)
Q4_1 = QuantFormat("q4_1", block=32, block_bytes=20, bits=4, group=32, zero=None)
Q5_0 = QuantFormat("q5_0", block=32, block_bytes=22, bits=5, group=32, zero=16)
Q5_1 = QuantFormat("q5_1", block=32, block_bytes=24, bits=5, group=32, zero=None)
Q8_0 = QuantFormat("q8_0", block=32, block_bytes=34, bits=8, group=32, zero=128)
Q4_K = QuantFormat("q4_k", block=256, block_bytes=144, bits=4, group=32, zero=None)
Q5_K = QuantFormat("q5_k", block=256, block_bytes=176, bits=5, group=32, zero=None)
Q6_K = QuantFormat("q6_k", block=256, block_bytes=210, bits=6, group=16, zero=32)

Q4_Z = QuantFormat("q4_z", block=32, block_bytes=20, bits=4, group=32, zero=None)
Q4_ZB = QuantFormat("q4_zb", block=32, block_bytes=20, bits=4, group=32, zero=None)

FORMATS: dict[str, QuantFormat] = {f.name: f for f in (Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K)}
"""GGUF's block formats by name."""
ALL_FORMATS = FORMATS | {f.name: f for f in (Q4_Z, Q4_ZB)}
"""Every block format by name."""

_Parts: TypeAlias = tuple[U8, F32, F32 | None]


def unpack_rows(fmt: QuantFormat, raw: U8, cols: int) -> Unpacked:
    """Decode whole rows.

    raw: uint8 [rows, cols / block * block_bytes]. Returns q uint8 [rows, cols], s and m float32 [rows, cols / group].
    A file may hold any bits: infinite or NaN scales decode to infinite or NaN s and m, without warnings.
    Raises ValueError when the shape of `raw` does not belong to `cols` columns of `fmt`, which is the caller's mistake.
    """
    blocks, rest = divmod(cols, fmt.block)
    if rest or raw.ndim != 2 or raw.shape[1] != blocks * fmt.block_bytes or raw.dtype != np.uint8:
        raise ValueError(f"{raw.dtype} {list(raw.shape)} is not {fmt.name} rows of {cols} columns")
    rows = raw.shape[0]
    with np.errstate(all="ignore"):
        q, s, m = _DECODERS[fmt.name](raw.reshape(rows * blocks, fmt.block_bytes))
        if m is None:
            m = s * np.float32(fmt.zero or 0)
    shape = (rows, cols // fmt.group)
    return Unpacked(q.reshape(rows, cols), s.reshape(shape), m.reshape(shape))


# Each decoder takes uint8 [N, block_bytes] and returns q [N, block], s [N, block / group] and m like s, or None when
# the format is symmetric.


def _f16(part: U8) -> F32:
    """Two bytes a number, [N, 2k] → float32 [N, k]."""
    return np.ascontiguousarray(part).view(np.float16).astype(np.float32)


def _nibbles(part: U8) -> U8:
    """[N, k] → [N, 2k]: all low halves, then all high halves."""
    return np.concatenate([part & 0x0F, part >> 4], axis=1)


def _fifth_bits(part: U8) -> U8:
    """Four bytes [N, 4] → [N, 32]: bit i of the little-endian word, as 0 or 16."""
    return np.unpackbits(part, axis=1, bitorder="little") << np.uint8(4)


def _q4_0(b: U8) -> _Parts:
    # d f16 | 16 bytes of nibbles
    return _nibbles(b[:, 2:]), _f16(b[:, :2]), None


def _q4_1(b: U8) -> _Parts:
    # d f16 | minimum f16 (added, so m is its negative) | 16 bytes of nibbles
    return _nibbles(b[:, 4:]), _f16(b[:, :2]), -_f16(b[:, 2:4])


def _q4_z(b: U8) -> _Parts:
    # scale f16 | zero u8 | nothing u8 | 16 bytes of nibbles
    s = _f16(b[:, :2])
    return _nibbles(b[:, 4:]), s, s * b[:, 2:3].astype(np.float32)


def _q4_zb(b: U8) -> _Parts:
    # the same with a bfloat16
    s = (np.ascontiguousarray(b[:, :2]).view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    return _nibbles(b[:, 4:]), s, s * b[:, 2:3].astype(np.float32)


def _q5_0(b: U8) -> _Parts:
    # d f16 | fifth bits, 4 bytes | 16 bytes of nibbles
    return _nibbles(b[:, 6:]) | _fifth_bits(b[:, 2:6]), _f16(b[:, :2]), None


def _q5_1(b: U8) -> _Parts:
    # d f16 | minimum f16 (added) | fifth bits, 4 bytes | 16 bytes of nibbles
    return _nibbles(b[:, 8:]) | _fifth_bits(b[:, 4:8]), _f16(b[:, :2]), -_f16(b[:, 2:4])


def _q8_0(b: U8) -> _Parts:
    # d f16 | 32 int8; flipping the top bit of a two's complement byte adds 128
    return b[:, 2:] ^ np.uint8(0x80), _f16(b[:, :2]), None


def _k_scales(b: U8) -> tuple[F32, F32]:
    """s and m [N, 8] of a q4_k or q5_k block: d f16 | dmin f16 | 12 bytes with eight 6-bit scales and minimums.

    Bytes 0-3 and 4-7 hold the low six bits of scales 0-3 and minimums 0-3; bytes 8-11 hold the low four bits of
    scales 4-7 (low halves) and minimums 4-7 (high halves), whose top two bits are those of bytes 0-3 and 4-7.
    """
    d = _f16(b[:, 0:4])
    first, second, third = b[:, 4:8], b[:, 8:12], b[:, 12:16]
    scales = np.concatenate([first & 63, (third & 15) | (first >> 6 << 4)], axis=1)
    minimums = np.concatenate([second & 63, (third >> 4) | (second >> 6 << 4)], axis=1)
    return d[:, 0:1] * scales, d[:, 1:2] * minimums


def _k_nibbles(part: U8) -> U8:
    """[N, 128] → [N, 8, 32]: each 32 bytes are a group of low halves, then a group of high halves."""
    pairs = part.reshape(-1, 4, 1, 32)
    return np.concatenate([pairs & 0x0F, pairs >> 4], axis=2).reshape(-1, 8, 32)


def _q4_k(b: U8) -> _Parts:
    # scales, 16 bytes | 128 bytes of nibbles
    return _k_nibbles(b[:, 16:]), *_k_scales(b)


def _q5_k(b: U8) -> _Parts:
    # scales, 16 bytes | 32 bytes of fifth bits: bit g of byte i belongs to weight i of group g | 128 bytes of nibbles
    shift = np.arange(8, dtype=np.uint8).reshape(1, 8, 1)
    fifth = (b[:, 16:48].reshape(-1, 1, 32) >> shift) & np.uint8(1)
    return _k_nibbles(b[:, 48:]) | (fifth << np.uint8(4)), *_k_scales(b)


def _q6_k(b: U8) -> _Parts:
    # low nibbles, 128 bytes | top bit pairs, 64 bytes | 16 int8 scales | d f16. Each half of 128 weights is four runs
    # of 32: the low and then the high halves of its 64 nibble bytes, with bit pair r of its 32 top bytes for run r.
    low = b[:, :128].reshape(-1, 2, 1, 64)
    nibbles = np.concatenate([low & 0x0F, low >> 4], axis=2).reshape(-1, 2, 4, 32)
    shift = np.arange(0, 8, 2, dtype=np.uint8).reshape(1, 1, 4, 1)
    top = (b[:, 128:192].reshape(-1, 2, 1, 32) >> shift) & 3
    scales: npt.NDArray[np.int8] = np.ascontiguousarray(b[:, 192:208]).view(np.int8)
    return nibbles | (top << 4), _f16(b[:, 208:210]) * scales, None


_DECODERS: dict[str, Callable[[U8], _Parts]] = {
    "q4_0": _q4_0,
    "q4_1": _q4_1,
    "q4_z": _q4_z,
    "q4_zb": _q4_zb,
    "q5_0": _q5_0,
    "q5_1": _q5_1,
    "q8_0": _q8_0,
    "q4_k": _q4_k,
    "q5_k": _q5_k,
    "q6_k": _q6_k,
}
