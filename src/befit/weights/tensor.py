"""The canonical tensors that every weight file is translated to, and that every backend starts from.

Quantised: group-affine integers, `w = s * q - m`, with one (s, m) per `group` consecutive columns of a row and
unsigned q of `bits` bits. Symmetric formats have no m array but a constant `zero`: m = s * zero. The integers are the
file's own; s and m are exact in float32. Dense: f32, f16 or bf16.

Tensors keep the file's bytes (usually a memory map) and decode on demand, so opening a model reads no weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

F32: TypeAlias = npt.NDArray[np.float32]
U8: TypeAlias = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class QuantFormat:
    """How a block format stores group-affine integers.

    block: weights a block; block_bytes: bytes a block; bits: width of q; group: weights that share (s, m);
    zero: the constant of a symmetric format (m = s * zero), None for an affine one.
    """

    name: str
    block: int
    block_bytes: int
    bits: Literal[4, 5, 6, 8]
    group: Literal[16, 32]
    zero: int | None


@dataclass(frozen=True, slots=True)
class Unpacked:
    """q uint8 [rows, cols]; s float32 [rows, cols/group]; m float32 like s (filled in for symmetric formats too)."""

    q: U8
    s: F32
    m: F32


@dataclass(frozen=True, slots=True, eq=False)
class QuantTensor:
    """A quantised matrix [rows, cols] over the file's own bytes: `raw` is uint8 [rows, bytes a row]."""

    name: str
    shape: tuple[int, int]
    format: QuantFormat
    raw: U8

    def unpack(self, start: int = 0, stop: int | None = None) -> Unpacked:
        """Rows start:stop as canonical integers and scales."""
        from befit.weights.blocks import unpack_rows

        return unpack_rows(self.format, self.raw[start:stop], self.shape[1])

    def dequantize(self, start: int = 0, stop: int | None = None) -> F32:
        """Rows start:stop as float32."""
        u = self.unpack(start, stop)
        rows, groups = u.s.shape
        q = u.q.reshape(rows, groups, self.format.group).astype(np.float32)
        with np.errstate(all="ignore"):  # a damaged file's infinite scales become NaN weights, quietly
            return (q * u.s[:, :, None] - u.m[:, :, None]).reshape(rows, -1)

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor in the file."""
        return int(self.raw.nbytes)


@dataclass(frozen=True, slots=True, eq=False)
class Fp8:
    """A matrix as e4m3 with float32 scales, as files have it, which blocks of integers only come near.

    `read` returns the bits, uint8 [rows, cols], and the scales, float32 [ceil(rows / tall), ceil(cols / wide)]: one for
    each block of `tall` rows and `wide` columns, which multiplies.
    """

    tall: int
    wide: int
    read: Callable[[], tuple[U8, F32]]


class MadeTensor(QuantTensor):
    """A quantised matrix whose blocks are made from other bytes each time they are asked for, and not kept.

    `make` returns them all, uint8 [rows, bytes a row]. `fp8` is what they were made from, where that is e4m3.
    """

    __slots__ = ("_make", "fp8")
    fp8: Fp8 | None

    def __init__(
        self,
        name: str,
        shape: tuple[int, int],
        format: QuantFormat,
        make: Callable[[], U8],
        fp8: Fp8 | None = None,
    ) -> None:
        for key, value in (("name", name), ("shape", shape), ("format", format), ("_make", make), ("fp8", fp8)):
            object.__setattr__(self, key, value)

    @property
    def raw(self) -> U8:
        """The blocks, made anew."""
        made: U8 = self._make()  # type: ignore[attr-defined]
        return made

    @property
    def nbytes(self) -> int:
        """Bytes of the blocks."""
        return self.shape[0] * (self.shape[1] // self.format.block) * self.format.block_bytes


@dataclass(frozen=True, slots=True, eq=False)
class DenseTensor:
    """A float tensor of 1 to 4 dimensions, rows first.

    `data` has the file's dtype: float32, float16, or bf16 bits as uint16.
    """

    name: str
    shape: tuple[int, ...]
    dtype: Literal["f32", "f16", "bf16"]
    data: npt.NDArray[np.float32] | npt.NDArray[np.float16] | npt.NDArray[np.uint16]

    def dequantize(self, start: int = 0, stop: int | None = None) -> F32:
        """Rows start:stop as float32."""
        part = self.data[start:stop]
        if self.dtype == "bf16":
            return (part.astype(np.uint32) << 16).view(np.float32)
        with np.errstate(all="ignore"):  # signalling NaNs
            return part.astype(np.float32)

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor in the file."""
        return int(self.data.nbytes)


@dataclass(frozen=True, slots=True, eq=False)
class PackedTensor:
    """A matrix [rows, cols] as a backend packed it for its kernels, not read yet.

    `format` names what it was packed from: a quantised format, or f32, f16 or bf16. Its `nbytes` bytes lie in the open
    file `file` (a descriptor) from byte `offset`. `table` is the matrix unpacked, where rows of it are looked up too.

    `backend` names the backend. Where a matrix is several arrays, `parts` has the place of each in the file by its
    name; `nbytes` are those of all together.
    """

    name: str
    shape: tuple[int, int]
    format: str
    quantised: bool
    file: int
    offset: int
    nbytes: int
    table: QuantTensor | DenseTensor | None = None
    backend: str = "native"
    parts: Mapping[str, int] = field(default_factory=dict)


Tensor: TypeAlias = QuantTensor | DenseTensor
Weight: TypeAlias = Tensor | PackedTensor
