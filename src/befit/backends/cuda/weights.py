"""Weights on the device: dense matrices as they are multiplied, quantised ones as planes, dequantised when they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch

from befit.backends.cuda.arrays import arrays, e4m3_blocks, row_chunks
from befit.backends.cuda.fp8 import Fp8Matrix, load_fp8
from befit.backends.cuda.planes import make_planes, unit
from befit.backends.cuda.transfer import Transfer
from befit.errors import ConfigError
from befit.models.program import Embed, Linear, Logits, Program
from befit.weights.blocks import ALL_FORMATS
from befit.weights.tensor import DenseTensor, MadeTensor, PackedTensor, QuantFormat, QuantTensor, Tensor, Weight

DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
_TYPES = {"uint8": torch.uint8, "int8": torch.int8, "float16": torch.float16, "float32": torch.float32}


@dataclass(frozen=True, slots=True)
class QuantMatrix:
    """A quantised matrix [rows, cols] as planes (see planes.py). group, unit: columns; zero: of symmetric formats."""

    shape: tuple[int, int]
    bits: int
    group: int
    unit: int
    zero: int
    low: torch.Tensor
    high: torch.Tensor | None
    scale: torch.Tensor
    offset: torch.Tensor | None
    sub_scale: torch.Tensor | None
    sub_offset: torch.Tensor | None

    @property
    def nbytes(self) -> int:
        """Bytes on the device."""
        parts = (self.low, self.high, self.scale, self.offset, self.sub_scale, self.sub_offset)
        return sum(part.nbytes for part in parts if part is not None)

    def rows(self, index: torch.Tensor | slice) -> torch.Tensor:
        """These rows as float32 [n, cols]: what `QuantTensor.dequantize` gives, bit for bit."""
        low = self.low[index]
        n = low.shape[0]
        q = low if self.bits == 8 else torch.stack((low & 15, low >> 4), dim=-1).reshape(n, -1)
        if self.high is not None:
            per = 8 if self.bits == 5 else 4
            shift = torch.arange(0, 8, 8 // per, dtype=torch.uint8, device=low.device)
            top = (self.high[index][:, :, None] >> shift) & (1 if self.bits == 5 else 3)
            q = q | (top.reshape(n, -1) << 4)
        groups = self.shape[1] // self.group
        s = self.scale[index].float().repeat_interleave(self.unit // self.group, dim=1)
        base = s if self.offset is None else None
        if self.sub_scale is not None:
            s = s * self.sub_scale[index].float()
        if self.sub_offset is not None:
            if base is None:
                assert self.offset is not None
                base = self.offset[index].float().repeat_interleave(self.unit // self.group, dim=1)
            m = base * self.sub_offset[index].float()
        else:
            m = s * self.zero if self.offset is None else self.offset[index].float()
        return (q.float().view(n, groups, self.group) * s[:, :, None] - m[:, :, None]).reshape(n, -1)


Matrix: TypeAlias = torch.Tensor | QuantMatrix | Fp8Matrix


class Weights:
    """Every weight of a program on a device, by name. Vectors are float32, dense matrices of the compute dtype."""

    def __init__(self, by_name: dict[str, Matrix]) -> None:
        self._all = by_name

    def matrix(self, name: str) -> Matrix:
        """A matrix, quantised or dense."""
        return self._all[name]

    def vector(self, name: str | None) -> torch.Tensor | None:
        """A vector in float32; None for None."""
        return None if name is None else self._all[name]

    @property
    def nbytes(self) -> int:
        """Bytes on the device."""
        return sum(weight.nbytes for weight in self._all.values())

    def clear(self) -> None:
        """Free them all."""
        self._all.clear()


def load_weights(
    program: Program,
    tensors: Mapping[str, Weight],
    device: torch.device,
    dtype: torch.dtype,
    *,
    on_progress: Callable[[int, int], None] | None = None,
    release: Callable[[Tensor], None] | None = None,
) -> Weights:
    """Bring a model's weights to the device. Raises ConfigError for weights that are packed for another backend, and
    CorruptFile where those packed for this one cannot be read."""
    matrices = matrix_names(program)
    names = program.weight_names()
    by_name: dict[str, Matrix] = {}
    total, done = sum(tensors[name].nbytes for name in names), 0
    transfer = Transfer(device)
    for name in names:
        tensor = tensors[name]
        if isinstance(tensor, PackedTensor):
            by_name[name] = load_packed(tensor, transfer, device, dtype)
        elif isinstance(tensor, MadeTensor) and tensor.fp8 is not None:
            by_name[name] = load_fp8(tensor, device)
        elif isinstance(tensor, QuantTensor):
            by_name[name] = load_quantised(tensor, device)
        else:
            by_name[name] = load_dense(tensor, device, dtype if name in matrices else torch.float32)
        if release and not isinstance(tensor, PackedTensor):
            release(tensor)
        done += tensor.nbytes
        if on_progress:
            on_progress(done, total)
    transfer.finish()
    return Weights(by_name)


def matrix_names(program: Program) -> set[str]:
    """The weights that are multiplied with, or looked up in."""
    return {op.weight for op in program.ops if isinstance(op, Embed | Linear | Logits)}


def load_dense(tensor: DenseTensor, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """A float tensor in `dtype` on the device."""
    out = torch.empty(tensor.shape, dtype=dtype, device=device)
    for rows in row_chunks(tensor.shape):
        if tensor.dtype == "bf16":
            part = torch.from_numpy(np.array(tensor.data[rows]).view(np.int16)).view(torch.bfloat16)
        else:
            part = torch.from_numpy(np.array(tensor.data[rows]))
        out[rows] = part.to(device).to(dtype)
    return out


def load_quantised(tensor: QuantTensor, device: torch.device) -> QuantMatrix:
    """A quantised matrix as planes on the device, exact."""
    fmt, (n_rows, cols) = tensor.format, tensor.shape
    raw = tensor.raw
    parts: dict[str, torch.Tensor] = {}
    for rows in row_chunks(tensor.shape):
        for name, part in make_planes(fmt, raw[rows], cols).parts().items():
            source = torch.from_numpy(np.ascontiguousarray(part))
            if name not in parts:
                parts[name] = torch.empty((n_rows, part.shape[1]), dtype=source.dtype, device=device)
            parts[name][rows] = source.to(device)
    return _of_planes(tensor.shape, fmt, parts)


def load_packed(
    tensor: PackedTensor, transfer: Transfer, device: torch.device, dtype: torch.dtype
) -> torch.Tensor | QuantMatrix | Fp8Matrix:
    """A matrix from a folder that was built for this backend: its arrays as they lie there, dense ones in `dtype`."""
    if tensor.backend != "cuda":
        raise ConfigError(
            f"{tensor.name} is packed for the {tensor.backend} backend and the cuda backend cannot read it; load the "
            "GGUF file or folder that it was built from."
        )
    if tensor.format in DTYPES:
        return _load_dense_part(tensor, transfer, device, dtype)
    parts = {
        array.name: transfer.read(tensor.file, tensor.parts[array.name], array.shape, _TYPES[array.dtype.name])
        for array in arrays(tensor.name, tensor.format, tensor.shape)
    }
    blocks = e4m3_blocks(tensor.format)
    if blocks is not None:
        return Fp8Matrix(tensor.shape, *blocks, parts["bits"], parts["scale"])
    return _of_planes(tensor.shape, ALL_FORMATS[tensor.format], parts)


def _load_dense_part(
    tensor: PackedTensor, transfer: Transfer, device: torch.device, dtype: torch.dtype
) -> torch.Tensor:
    stored, offset = DTYPES[tensor.format], tensor.parts["data"]
    if stored == dtype:
        return transfer.read(tensor.file, offset, tensor.shape, stored)
    out = torch.empty(tensor.shape, dtype=dtype, device=device)
    row = tensor.nbytes // tensor.shape[0]
    for rows in row_chunks(tensor.shape):
        shape = (rows.stop - rows.start, tensor.shape[1])
        out[rows] = transfer.read(tensor.file, offset + rows.start * row, shape, stored).to(dtype)
    return out


def _of_planes(shape: tuple[int, int], fmt: QuantFormat, parts: Mapping[str, torch.Tensor]) -> QuantMatrix:
    return QuantMatrix(
        shape=shape,
        bits=fmt.bits,
        group=fmt.group,
        unit=unit(fmt),
        zero=fmt.zero or 0,
        low=parts["low"],
        high=parts.get("high"),
        scale=parts["scale"],
        offset=parts.get("offset"),
        sub_scale=parts.get("sub_scale"),
        sub_offset=parts.get("sub_offset"),
    )
