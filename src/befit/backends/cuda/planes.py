"""Quantised matrices as the card keeps them: the canonical integers, split into planes that kernels read in pairs.

A plane is a matrix of bytes, a row for each row of the weights. Two neighbouring columns, 2p and 2p+1, are a pair:

    4 bits   low[p]: column 2p in the low half, 2p+1 in the high half
    5 bits   that, and bit c % 8 of high[c / 8] is the fifth bit of column c
    6 bits   that, and bits 2(c % 4), 2(c % 4) + 1 of high[c / 4] are the top bits of column c
    8 bits   low[c]: column c

Then w = s * q - m. Scales stay as small as in the file and exact: s = scale * sub_scale, m = offset * sub_offset, where
scale and offset are one a `unit` of columns, and the sub-scales, whole numbers, one a group. Formats without sub-scales
have a unit of one group; symmetric ones have no offset, and m = s * zero.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from befit.weights.blocks import unpack_rows
from befit.weights.tensor import U8, QuantFormat

Floats = npt.NDArray[np.float16] | npt.NDArray[np.float32]

_SUPER = ("q4_k", "q5_k", "q6_k")
_EXACT_HALVES = ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0")


@dataclass(frozen=True, slots=True)
class Planes:
    """Rows of a matrix. low, high: bytes; scale, offset: [rows, cols / unit]; sub_*: int8 [rows, cols / group].

    None: there is no such part. Where sub_offset is given without offset, the offset is the scale.
    """

    low: U8
    high: U8 | None
    scale: Floats
    offset: Floats | None
    sub_scale: npt.NDArray[np.int8] | None
    sub_offset: npt.NDArray[np.int8] | None

    def parts(self) -> dict[str, npt.NDArray[np.generic]]:
        """The parts that there are, by name."""
        return {name: part for name in self.__slots__ if (part := getattr(self, name)) is not None}


def unit(fmt: QuantFormat) -> int:
    """Columns that share a scale."""
    return fmt.block if fmt.name in _SUPER else fmt.group


def bits_per_weight(fmt: QuantFormat) -> float:
    """Bits on the card for each weight, scales included."""
    wide = 16 if fmt.name in (*_SUPER, *_EXACT_HALVES, "q4_z") else 32
    offsets = 2 if fmt.zero is None and fmt.name not in ("q4_z", "q4_zb") else 1
    subs = {"q4_k": 2, "q5_k": 2, "q6_k": 1, "q4_z": 1, "q4_zb": 1}.get(fmt.name, 0)
    return fmt.bits + wide * offsets / unit(fmt) + 8 * subs / fmt.group


def make_planes(fmt: QuantFormat, raw: U8, cols: int) -> Planes:
    """Planes of whole rows; raw is uint8 [rows, bytes a row] as in the file."""
    unpacked = unpack_rows(fmt, raw, cols)
    low, high = _integers(fmt.bits, unpacked.q)
    rows = len(raw)
    blocks = raw.reshape(rows, -1, fmt.block_bytes)
    if fmt.name in _SUPER:
        return Planes(low, high, *_sub_scales(fmt.name, blocks))
    if fmt.name in ("q4_z", "q4_zb"):
        zero = blocks[:, :, 2].astype(np.int8)
        scale: Floats = unpacked.s if fmt.name == "q4_zb" else unpacked.s.astype(np.float16)
        return Planes(low, high, scale, None, None, zero)
    with np.errstate(all="ignore"):
        offset = None if fmt.zero is not None else unpacked.m.astype(np.float16)
        return Planes(low, high, unpacked.s.astype(np.float16), offset, None, None)


def _integers(bits: int, q: U8) -> tuple[U8, U8 | None]:
    if bits == 8:
        return q, None
    low: U8 = (q[:, 0::2] & np.uint8(15)) | (q[:, 1::2] << np.uint8(4))
    top: U8 = q >> np.uint8(4)
    if bits == 4:
        return low, None
    if bits == 5:
        return low, np.packbits(top, axis=1, bitorder="little")
    pairs: U8 = top[:, 0::2] | (top[:, 1::2] << np.uint8(2))
    return low, pairs[:, 0::2] | (pairs[:, 1::2] << np.uint8(4))


def _sub_scales(name: str, b: U8) -> tuple[Floats, Floats | None, npt.NDArray[np.int8], npt.NDArray[np.int8] | None]:
    """scale, offset, sub_scale, sub_offset of K-quant blocks [rows, blocks, bytes]; places: weights/blocks.py."""
    rows = len(b)

    def half(at: int) -> npt.NDArray[np.float16]:
        return np.ascontiguousarray(b[:, :, at : at + 2]).view(np.float16).reshape(rows, -1)

    if name == "q6_k":
        return half(208), None, np.ascontiguousarray(b[:, :, 192:208]).view(np.int8).reshape(rows, -1), None
    first, second, third = b[:, :, 4:8], b[:, :, 8:12], b[:, :, 12:16]
    scales = np.concatenate([first & 63, (third & 15) | (first >> 6 << 4)], axis=2)
    minimums = np.concatenate([second & 63, (third >> 4) | (second >> 6 << 4)], axis=2)
    return half(0), half(2), scales.reshape(rows, -1).view(np.int8), minimums.reshape(rows, -1).view(np.int8)
