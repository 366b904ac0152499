"""Random matrices as a model file would hold them, for benchmarks and tests."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from befit.weights.blocks import FORMATS
from befit.weights.tensor import DenseTensor, QuantTensor, Tensor


def random_matrix(rng: np.random.Generator, name: str, rows: int, cols: int, kind: str) -> Tensor:
    """A [rows, cols] tensor stored as `kind`, with a standard deviation near 1 / sqrt(cols)."""
    if kind in FORMATS:
        return random_quant(rng, name, rows, cols, kind)
    data = (rng.standard_normal((rows, cols)) / np.sqrt(cols)).astype(np.float32)
    if kind == "f16":
        return DenseTensor(name, (rows, cols), "f16", data.astype(np.float16))
    if kind == "bf16":
        return DenseTensor(name, (rows, cols), "bf16", (data.view(np.uint32) >> 16).astype(np.uint16))
    return DenseTensor(name, (rows, cols), "f32", data)


# Where each format's blocks hold their float16 scale, and the float16 that multiplies or is the minimum, with the
# multiple of the scale that centres the weights on zero.
_SCALE_AT = {"q4_0": 0, "q4_1": 0, "q5_0": 0, "q5_1": 0, "q8_0": 0, "q4_k": 0, "q5_k": 0, "q6_k": 208}
_MINIMUM_AT = {"q4_1": (2, -7.5), "q5_1": (2, -15.5), "q4_k": (2, 7.5), "q5_k": (2, 15.5)}


def random_quant(rng: np.random.Generator, name: str, rows: int, cols: int, kind: str) -> QuantTensor:
    """Blocks of random bits under random scales, some of them negative as real files have."""
    fmt = FORMATS[kind]
    raw = rng.integers(0, 256, (rows, cols // fmt.block, fmt.block_bytes), dtype=np.uint8)

    def put_scales(scale: npt.NDArray[np.float64]) -> None:
        fields = [(_SCALE_AT[kind], 1.0)] + ([_MINIMUM_AT[kind]] if kind in _MINIMUM_AT else [])
        for at, multiple in fields:
            half = (scale * multiple).astype(np.float16)
            raw[:, :, at : at + 2] = half[..., None].view(np.uint8)

    def flat() -> npt.NDArray[np.uint8]:
        return raw.reshape(rows, -1)

    put_scales(np.ones(raw.shape[:2]))
    unscaled = QuantTensor(name, (rows, cols), fmt, flat()).dequantize()
    sign = rng.choice([1.0, -1.0], raw.shape[:2], p=[0.8, 0.2])
    put_scales(sign * rng.uniform(0.5, 1.5, raw.shape[:2]) / (np.sqrt(cols) * unscaled.std()))
    return QuantTensor(name, (rows, cols), fmt, flat())
