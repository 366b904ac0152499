"""What readers of quantised checkpoints share: stored tensors, unpacking words, and writing canonical blocks.

A reader looks at the tensors of one module (`qweight`, `scales`, …) and says which block format the module becomes and
how its blocks are made.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from befit.errors import CorruptFile, UnsupportedModel
from befit.weights.blocks import Q4_0, Q4_Z, Q4_ZB, Q8_0
from befit.weights.tensor import F32, U8, Fp8, QuantFormat

U16: TypeAlias = npt.NDArray[np.uint16]

GROUP = 32
"""Columns that share a scale in every block format below; a group of a multiple of this many is repeated."""
_PIECE_BYTES = 1 << 17
"""Bytes of float32 that are made at a time."""
_THREADS = len(os.sched_getaffinity(0))
_NUMPY: Mapping[str, Any] = {
    "F32": np.float32, "F16": np.float16, "BF16": np.uint16, "I64": np.int64, "I32": np.int32, "I16": np.int16,
    "I8": np.int8, "U8": np.uint8, "F8_E4M3": np.uint8,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Raw:
    """A tensor as a checkpoint stores it; `bytes()` is uint8, mapped."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    bytes: Callable[[], U8]

    def array(self, *dtypes: str) -> npt.NDArray[Any]:
        """The values in their own type (bf16 and fp8 as bits), which must be one of `dtypes`. Raises CorruptFile."""
        if self.dtype not in dtypes:
            raise CorruptFile(f"tensor {self.name!r:.100} has type {self.dtype}; expected {' or '.join(dtypes)}.")
        values: npt.NDArray[Any] = self.bytes().view(_NUMPY[self.dtype]).reshape(self.shape)
        return values

    def floats(self) -> F32:
        """Float values as float32."""
        values = self.array("F32", "F16", "BF16")
        if self.dtype == "BF16":
            return (values.astype(np.uint32) << 16).view(np.float32)
        with np.errstate(all="ignore"):
            return values.astype(np.float32)

    def matrix(self) -> tuple[int, int]:
        """Its two sizes. Raises CorruptFile for another number of dimensions, and for nothing in one."""
        if len(self.shape) != 2 or 0 in self.shape:
            raise CorruptFile(f"tensor {self.name!r:.100} is {list(self.shape)}; expected rows and columns.")
        return self.shape[0], self.shape[1]

    def check(self, *shape: int) -> None:
        """Raise CorruptFile unless the tensor has this shape."""
        if self.shape != shape:
            raise CorruptFile(f"tensor {self.name!r:.100} is {list(self.shape)}; expected {list(shape)}.")


@dataclass(frozen=True, slots=True)
class Made:
    """What a module becomes. uses: the tensors that it is made of. type: of the checkpoint, for people.

    note: what is not exact about it, for people; None when the weights are the file's own to the bit. fp8: the same
    matrix exactly, where it is e4m3.
    """

    shape: tuple[int, int]
    type: str
    format: QuantFormat
    uses: tuple[str, ...]
    make: Callable[[], U8]
    note: str | None = None
    fp8: Fp8 | None = None


Reader: TypeAlias = Callable[[str, Mapping[str, Raw]], Made | None]
"""Reads a module by its name and its tensors by the last part of theirs; None for one that is not quantised."""


def need(module: str, parts: Mapping[str, Raw], name: str) -> Raw:
    """A tensor of the module. Raises CorruptFile when it is not there."""
    if name not in parts:
        raise CorruptFile(f"module {module!r:.100} has no tensor {name}; fetch all files of the model again.")
    return parts[name]


def check_columns(module: str, columns: int, groups: int = 1) -> None:
    """Raise UnsupportedModel unless so many groups share the columns evenly, a multiple of 32 each."""
    if columns % groups or columns // groups % GROUP or not columns:
        raise UnsupportedModel(
            f"module {module!r:.100} has {columns} columns in {groups} groups; befit runs groups of {GROUP} columns, "
            "or of a multiple of that."
        )


def unpack_words(words: npt.NDArray[Any], bits: int) -> U8:
    """Unsigned integers of `bits` bits from 32-bit words [..., n], a stream from the lowest bit: [..., 32 n / bits]."""
    raw = np.ascontiguousarray(words).view(np.uint8)
    if bits == 8:
        return raw
    shape = (*raw.shape[:-1], words.shape[-1] * 32 // bits)
    if bits in (2, 4):
        out = np.empty(shape, np.uint8)
        for at in range(8 // bits):
            np.bitwise_and(raw >> np.uint8(at * bits), np.uint8((1 << bits) - 1), out=out[..., at :: 8 // bits])
        return out
    stream = np.unpackbits(raw, axis=-1, bitorder="little").reshape(*shape, bits)
    return np.packbits(stream, axis=-1, bitorder="little")[..., 0]


# -- canonical blocks -------------------------------------------------------------------------------------------------


def zero_format(scales: Raw) -> QuantFormat:
    """The 4-bit format with whole zeros that keeps such scales."""
    return Q4_ZB if scales.dtype == "BF16" else Q4_Z


def scale_bits(scales: Raw) -> U16:
    """Scales as `zero_format` keeps them: float16 or bfloat16 bits. float32 is rounded to float16."""
    values = scales.array("F32", "F16", "BF16")
    with np.errstate(all="ignore"):
        return values.view(np.uint16) if scales.dtype != "F32" else values.astype(np.float16).view(np.uint16)


def rounding(scales: Raw, method: str, *, bfloat16: bool = False) -> str | None:
    """A note that float16 does not hold the scales; None where it does, or where bfloat16 ones are kept as they are."""
    if scales.dtype == "F16" or (bfloat16 and scales.dtype == "BF16"):
        return None
    values = scales.floats()
    with np.errstate(all="ignore"):
        if (values.astype(np.float16).astype(np.float32) == values).all():
            return None
    return f"scales of {method} are rounded to float16, by at most 1 part in 2048"


def zero_blocks(nibbles: U8, scales: U16, zeros: U8) -> U8:
    """Blocks of `Q4_Z` or `Q4_ZB`. nibbles: see below. scales, zeros: [rows, groups], 32 k columns each."""
    rows, blocks = nibbles.shape[:2]
    out = np.zeros((rows, blocks, Q4_Z.block_bytes), np.uint8)
    out[:, :, 0:2] = _spread(scales, blocks)[:, :, None].view(np.uint8)
    out[:, :, 2] = _spread(zeros, blocks)
    out[:, :, 4:] = nibbles
    return out.reshape(rows, -1)


def q4_0_blocks(nibbles: U8, scales: U16) -> U8:
    """Blocks of `Q4_0`, whose zero is 8. scales: float16 bits."""
    rows, blocks = nibbles.shape[:2]
    out = np.empty((rows, blocks, Q4_0.block_bytes), np.uint8)
    out[:, :, 0:2] = _spread(scales, blocks)[:, :, None].view(np.uint8)
    out[:, :, 2:] = nibbles
    return out.reshape(rows, -1)


def q8_0_blocks(q: npt.NDArray[np.int8], scales: F32) -> U8:
    """Blocks of `Q8_0` from signed integers. scales: [rows, groups], which are rounded to float16."""
    rows, blocks = q.shape[0], q.shape[1] // GROUP
    out = np.empty((rows, blocks, Q8_0.block_bytes), np.uint8)
    with np.errstate(all="ignore"):
        halves = scales.astype(np.float16)
    out[:, :, 0:2] = _spread(halves, blocks)[:, :, None].view(np.uint8)
    out[:, :, 2:] = q.view(np.uint8).reshape(rows, blocks, GROUP)
    return out.reshape(rows, -1)


def nearest_q8_0(shape: tuple[int, int], rows_at: Callable[[int, int], F32]) -> U8:
    """Blocks of `Q8_0` nearest to values that `rows_at(start, stop)` gives as new float32 rows, on several threads.

    The largest of 32 columns becomes 127 or -127, so a value is at most 1/254 of it away from its own.
    """
    rows, blocks = shape[0], shape[1] // GROUP
    out = np.empty((rows, blocks, Q8_0.block_bytes), np.uint8)

    def fill(start: int, stop: int) -> None:
        values = rows_at(start, stop).reshape(stop - start, blocks, GROUP)
        with np.errstate(all="ignore"):  # infinite and NaN values become NaN weights, which are noticed later
            # Without their sign, bits of floats are in the order of the floats, and integers are compared faster.
            largest = (values.view(np.uint32) & np.uint32(0x7FFFFFFF)).max(axis=2).view(np.float32)
            scale = (largest / 127).astype(np.float16)
            inverse = np.where(scale != 0, 1 / scale.astype(np.float32), 0).astype(np.float32)
            np.multiply(values, inverse[:, :, None], out=values)
            np.rint(values, out=values)
            np.clip(values, -127, 127, out=values)
            out[start:stop, :, 2:] = values.astype(np.int8).view(np.uint8)
        out[start:stop, :, 0:2] = scale[:, :, None].view(np.uint8)

    _in_pieces(rows, shape[1], fill)
    return out.reshape(rows, -1)


def _in_pieces(rows: int, columns: int, work: Callable[[int, int], None]) -> None:
    """work(start, stop) over all rows, in pieces that caches hold, on all cores: NumPy computes without the GIL."""
    step = max(1, _PIECE_BYTES // (4 * columns))
    starts = range(0, rows, step)
    if len(starts) == 1:
        return work(0, rows)
    with ThreadPoolExecutor(min(_THREADS, len(starts)), thread_name_prefix="befit-blocks") as pool:
        for done in [pool.submit(work, start, min(rows, start + step)) for start in starts]:
            done.result()
    return None


def _spread(values: npt.NDArray[Any], blocks: int) -> npt.NDArray[Any]:
    """[rows, groups] to [rows, blocks]: each group is so many blocks."""
    return np.ascontiguousarray(np.repeat(values, blocks // values.shape[1], axis=1))


def nibbles_of(words: npt.NDArray[Any], bits: int) -> U8:
    """Integers of up to 4 bits as blocks have them: [rows, blocks, 16], a block's first half in the low bits.

    words: [rows, n], as `unpack_words` takes them.
    """
    if bits == 4:  # four words a block, of which the first two are the first half
        parts = np.ascontiguousarray(words).view(np.uint32).reshape(words.shape[0], -1, 2, 2)
        even, odd = nibble_pairs(parts[:, :, 0], parts[:, :, 1])
        return np.stack([even, odd], axis=-1).reshape(words.shape[0], -1, GROUP // 2)
    q = unpack_words(words, bits).reshape(words.shape[0], -1, 2, GROUP // 2)
    return q[:, :, 0] | (q[:, :, 1] << np.uint8(4))


def nibble_pairs(low: npt.NDArray[Any], high: npt.NDArray[Any]) -> tuple[U8, U8]:
    """Nibbles 0, 2, 4, 6 and nibbles 1, 3, 5, 7 of 32-bit words [...] as bytes [..., 4], `high` in the high bits."""
    mask = np.uint32(0x0F0F0F0F)
    even = (low & mask) | ((high & mask) << np.uint32(4))
    odd = ((low >> np.uint32(4)) & mask) | (high & ~mask)
    return even.view(np.uint8).reshape(*low.shape, 4), odd.view(np.uint8).reshape(*low.shape, 4)
