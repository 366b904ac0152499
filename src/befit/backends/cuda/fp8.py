"""Matrices of e4m3 as a checkpoint has them, and their products.

    scaled_mm   both sides in e4m3 on the matrix units: each row of the activations is rounded with a scale of its own
    triton      weights decoded in registers, activations as they are: kernels/fp8.py
    torch       dequantised in slices, then multiplied by the vendor's library

A scale for the whole matrix is repeated for each row, so that there are two cases: rows, and blocks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from befit.backends.cuda.device import FP8_CAPABILITY, Target
from befit.weights.tensor import MadeTensor

MOST = 448.0
"""The largest e4m3."""
MULTIPLE = 16
"""torch._scaled_mm wants both sizes of a matrix to be multiples of this."""


@dataclass(frozen=True, slots=True)
class Fp8Matrix:
    """bits: uint8 [rows, cols]. scale: float32 [ceil(rows / tall), ceil(cols / wide)]; tall is 1 and wide is cols for a
    scale a row."""

    shape: tuple[int, int]
    tall: int
    wide: int
    bits: torch.Tensor
    scale: torch.Tensor

    @property
    def nbytes(self) -> int:
        """Bytes on the device."""
        return int(self.bits.nbytes) + int(self.scale.nbytes)

    @property
    def by_row(self) -> bool:
        """Whether every row has one scale."""
        return self.tall == 1 and self.wide >= self.shape[1]

    def rows(self, index: torch.Tensor | slice) -> torch.Tensor:
        """These rows as float32 [n, cols], exact."""
        at = torch.arange(self.shape[0], device=self.bits.device)[index] // self.tall
        scale = self.scale[at]
        if not self.by_row:
            scale = scale.repeat_interleave(self.wide, dim=1)[:, : self.shape[1]]
        return self.bits[index].view(torch.float8_e4m3fn).float() * scale


def load_fp8(tensor: MadeTensor, device: torch.device) -> Fp8Matrix:
    """Bring a matrix to the device as it is in the file."""
    source = tensor.fp8
    assert source is not None
    bits, scale = source.read()
    rows, cols = tensor.shape
    tall, wide = source.tall, source.wide
    on_device = torch.from_numpy(scale.copy()).to(device)
    if wide >= cols and tall > 1:
        on_device, tall = on_device.repeat_interleave(tall, dim=0)[:rows].contiguous(), 1
    # Copied part by part: the file is mapped, and torch warns of arrays that cannot be written.
    out = torch.empty((rows, cols), dtype=torch.uint8, device=device)
    step = max(1, (64 << 20) // cols)
    for start in range(0, rows, step):
        out[start : start + step] = torch.from_numpy(bits[start : start + step].copy()).to(device)
    return Fp8Matrix(tensor.shape, tall, wide, out, on_device)


def why_not_scaled(target: Target, weight: Fp8Matrix) -> str:
    """What speaks against products of e4m3 with e4m3, or ""."""
    if not target.has_fp8:
        return f"matrix units multiply e4m3 from compute capability {'.'.join(map(str, FP8_CAPABILITY))} on"
    if not weight.by_row:
        return f"scales of blocks of {weight.tall} by {weight.wide}"
    if any(size % MULTIPLE for size in weight.shape):
        return f"{weight.shape[0]} by {weight.shape[1]}, which are no multiples of {MULTIPLE}"
    return ""


def scaled_linear(x: torch.Tensor, weight: Fp8Matrix, bias: torch.Tensor | None) -> torch.Tensor:
    """x [T, in], each row rounded to e4m3 with its own scale, times the matrix [out, in] transposed, plus bias."""
    most = x.abs().amax(dim=-1, keepdim=True).float()
    scale = torch.where(most > 0, most / MOST, 1.0)
    rounded = (x.float() / scale).to(torch.float8_e4m3fn)
    out = torch._scaled_mm(
        rounded,
        weight.bits.view(torch.float8_e4m3fn).t(),
        scale_a=scale,
        scale_b=weight.scale.view(1, -1),
        out_dtype=torch.bfloat16,  # the only one that it knows with scales of rows
    ).to(x.dtype)
    return out if bias is None else out + bias.to(x.dtype)
