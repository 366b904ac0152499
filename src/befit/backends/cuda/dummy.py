"""Random weights of any shape, made on the device: for measuring where no model is at hand."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from befit.backends.cuda.fp8 import Fp8Matrix
from befit.backends.cuda.planes import unit
from befit.backends.cuda.weights import Matrix, QuantMatrix, Weights, matrix_names
from befit.models.program import Program
from befit.weights.blocks import FORMATS

_SUB_OFFSET = ("q4_k", "q5_k")


def dummy_weights(
    program: Program,
    shapes: Mapping[str, tuple[int, ...]],
    device: torch.device,
    dtype: torch.dtype,
    *,
    form: str | None = None,
    seed: int = 0,
) -> Weights:
    """All weights of the program: matrices dense or quantised as `form`, with a standard deviation near 1 / sqrt(cols);
    vectors near 1 (norms) or 0 (biases)."""
    generator = torch.Generator(device).manual_seed(seed)
    matrices = matrix_names(program)
    by_name: dict[str, Matrix] = {}
    for name in program.weight_names():
        shape = shapes[name]
        if name not in matrices:
            noise = 0.1 * torch.randn(shape, generator=generator, device=device)
            by_name[name] = noise if name.endswith("bias") else 1 + noise
        elif form == "fp8":
            by_name[name] = dummy_fp8((shape[0], shape[1]), device, generator)
        elif form is None:
            made = torch.randn(shape, generator=generator, device=device, dtype=dtype)
            by_name[name] = made.mul_(shape[1] ** -0.5)
        else:
            by_name[name] = dummy_matrix((shape[0], shape[1]), form, device, generator)
    return Weights(by_name)


def dummy_fp8(shape: tuple[int, int], device: torch.device, generator: torch.Generator) -> Fp8Matrix:
    """A matrix of random e4m3 with a scale a row."""
    rows, cols = shape
    bits = torch.randint(0, 255, shape, dtype=torch.uint8, device=device, generator=generator)
    bits.bitwise_and_(0xF7)  # without the lowest bit of the exponent none is NaN
    scale = torch.full((rows, 1), cols**-0.5 / 67, device=device)  # the standard deviation of such numbers
    return Fp8Matrix(shape, 1, cols, bits, scale)


def dummy_matrix(shape: tuple[int, int], form: str, device: torch.device, generator: torch.Generator) -> QuantMatrix:
    """A quantised matrix of random integers under one scale that centres and sizes them."""
    fmt, (rows, cols) = FORMATS[form], shape
    width = unit(fmt)
    most = 2**fmt.bits - 1
    scale = 12**0.5 / most * cols**-0.5  # of evenly spread integers

    def random(n: int) -> torch.Tensor:
        return torch.randint(0, 256, (rows, n), dtype=torch.uint8, device=device, generator=generator)

    def constant(n: int, value: float, dtype: torch.dtype) -> torch.Tensor:
        return torch.full((rows, n), value, dtype=dtype, device=device)

    sub = width > fmt.group
    low = random(cols if fmt.bits == 8 else cols // 2)
    high = random(cols // (8 if fmt.bits == 5 else 4)) if fmt.bits in (5, 6) else None
    offset = None
    if fmt.zero is None:
        offset = constant(cols // width, scale * most / 2 / (8 if form in _SUB_OFFSET else 1), torch.float16)
    return QuantMatrix(
        shape=shape,
        bits=fmt.bits,
        group=fmt.group,
        unit=width,
        zero=fmt.zero or 0,
        low=low,
        high=high,
        scale=constant(cols // width, scale / (8 if sub else 1), torch.float16),
        offset=offset,
        sub_scale=constant(cols // fmt.group, 8, torch.int8) if sub else None,
        sub_offset=constant(cols // fmt.group, 8, torch.int8) if form in _SUB_OFFSET else None,
    )
