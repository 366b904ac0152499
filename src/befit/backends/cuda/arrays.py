"""Matrices as the arrays that the device keeps, in a file: what a build for cards writes, and what a load copies.

    quantised   the planes (see planes.py), each an array
    e4m3        bits uint8 [rows, cols] and scales float32, as `Fp8Matrix` has them; the form is e4m3/TALLxWIDE
    dense       the numbers in the type of the model file, since not every card computes in the same one

It is arithmetic and NumPy, so that a build needs neither torch nor a card.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from befit.backends.cuda.planes import make_planes
from befit.errors import UnsupportedModel
from befit.weights.blocks import ALL_FORMATS
from befit.weights.tensor import Fp8, MadeTensor, QuantTensor, Tensor

LAYOUT = 1
"""Of these arrays and of the planes. It changes when either does, and folders with another one are built anew."""

ARRAYS = ("low", "high", "scale", "offset", "sub_scale", "sub_offset", "bits", "data")
"""All names of arrays that there are."""

DENSE = {"f32": np.float32, "f16": np.float16, "bf16": np.uint16}
_CHUNK_BYTES = 64 << 20
_E4M3 = re.compile(r"e4m3/([1-9]\d{0,9})x([1-9]\d{0,9})")


@dataclass(frozen=True, slots=True)
class Array:
    """An array of a matrix: one of the names in `ARRAYS`, the type of its elements (bf16 as uint16), and its shape."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, int]

    @property
    def nbytes(self) -> int:
        """Bytes, rows first and without gaps."""
        return prod(self.shape) * self.dtype.itemsize


def form_of(tensor: Tensor) -> str:
    """What a matrix is called by what its arrays are made from."""
    if isinstance(tensor, MadeTensor) and tensor.fp8 is not None:
        tall, wide = _blocks(tensor.fp8, tensor.shape)
        return f"e4m3/{tall}x{wide}"
    return tensor.format.name if isinstance(tensor, QuantTensor) else tensor.dtype


def e4m3_blocks(form: str) -> tuple[int, int] | None:
    """Rows and columns that share a scale in a matrix of e4m3; None for other forms."""
    match = _E4M3.fullmatch(form)
    return (int(match[1]), int(match[2])) if match else None


def arrays(name: str, form: str, shape: tuple[int, ...]) -> list[Array]:
    """The arrays of the matrix `name`. Raises UnsupportedModel for what is no matrix of a form that there is."""
    fmt, blocks = ALL_FORMATS.get(form), e4m3_blocks(form)
    known = form in DENSE or fmt is not None or blocks is not None
    if not known or len(shape) != 2 or not all(0 < size < 1 << 30 for size in shape):
        raise UnsupportedModel(f"tensor {name} of format {form!r:.40} and shape {list(shape)} is no matrix for cards.")
    rows, cols = shape
    if form in DENSE:
        return [Array("data", np.dtype(DENSE[form]), (rows, cols))]
    if blocks is not None:
        tall, wide = blocks
        scales = (-(-rows // tall), -(-cols // wide))
        return [Array("bits", np.dtype(np.uint8), (rows, cols)), Array("scale", np.dtype(np.float32), scales)]
    if cols % fmt.block:  # type: ignore[union-attr]
        raise UnsupportedModel(f"tensor {name} has {cols} columns; those of {form} are whole blocks.")
    count = cols // fmt.block  # type: ignore[union-attr]
    return [Array(part, dtype, (rows, width * count)) for part, dtype, width in _planes_of_block(form)]


def make_arrays(tensor: Tensor) -> dict[str, npt.NDArray[np.generic]]:
    """The arrays of a matrix by name, in the order and with the types and shapes that `arrays` says."""
    if isinstance(tensor, MadeTensor) and tensor.fp8 is not None:
        bits, scale = tensor.fp8.read()
        return {"bits": bits, "scale": scale_rows(tensor.fp8, tensor.shape, scale)}
    if not isinstance(tensor, QuantTensor):
        return {"data": tensor.data}
    raw, cols = tensor.raw, tensor.shape[1]
    made = {a.name: np.empty(a.shape, a.dtype) for a in arrays(tensor.name, tensor.format.name, tensor.shape)}
    for rows in row_chunks(tensor.shape):
        for name, part in make_planes(tensor.format, raw[rows], cols).parts().items():
            made[name][rows] = part
    return made


def scale_rows(source: Fp8, shape: tuple[int, int], scale: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The scales as the device keeps them: of a matrix whose scales are as wide as it is, one a row."""
    tall, wide = source.tall, source.wide
    if wide < shape[1] or tall == 1:
        return scale
    return np.repeat(scale, tall, axis=0)[: shape[0]]


def _blocks(source: Fp8, shape: tuple[int, int]) -> tuple[int, int]:
    return (1, shape[1]) if source.wide >= shape[1] else (source.tall, source.wide)


def row_chunks(shape: tuple[int, ...]) -> Iterator[slice]:
    """Rows that are worked on at a time: at most 64 MiB as float32, if one row does not take more."""
    step = max(1, _CHUNK_BYTES // (4 * prod(shape[1:])))
    return (slice(start, min(start + step, shape[0])) for start in range(0, shape[0], step))


@cache
def _planes_of_block(form: str) -> list[tuple[str, np.dtype[Any], int]]:
    """Name, type and width of each plane of one block, found by making them."""
    fmt = ALL_FORMATS[form]
    planes = make_planes(fmt, np.zeros((1, fmt.block_bytes), np.uint8), fmt.block)
    return [(name, part.dtype, part.shape[1]) for name, part in planes.parts().items()]
