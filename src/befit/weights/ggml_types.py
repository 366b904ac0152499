"""GGML's tensor types by number: which befit reads, and the names and sizes of the others, so that errors can be exact.

Source: enum `ggml_type` and its type traits in ggml. Numbers that ggml has retired keep the names they had.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from befit.weights import blocks
from befit.weights.tensor import QuantFormat

Dtype: TypeAlias = Literal["f32", "f16", "bf16"]


@dataclass(frozen=True, slots=True)
class GgmlType:
    """A tensor type: weights a block, bytes a block (both 0 when unknown), and what reads it (None: befit cannot)."""

    id: int
    name: str
    block: int
    block_bytes: int
    reads_as: QuantFormat | Dtype | None = None


def _quant(number: int, fmt: QuantFormat) -> GgmlType:
    return GgmlType(number, fmt.name.upper(), fmt.block, fmt.block_bytes, fmt)


_TYPES = (
    GgmlType(0, "F32", 1, 4, "f32"),
    GgmlType(1, "F16", 1, 2, "f16"),
    _quant(2, blocks.Q4_0),
    _quant(3, blocks.Q4_1),
    GgmlType(4, "Q4_2", 16, 10),
    GgmlType(5, "Q4_3", 16, 12),
    _quant(6, blocks.Q5_0),
    _quant(7, blocks.Q5_1),
    _quant(8, blocks.Q8_0),
    GgmlType(9, "Q8_1", 32, 36),
    GgmlType(10, "Q2_K", 256, 84),
    GgmlType(11, "Q3_K", 256, 110),
    _quant(12, blocks.Q4_K),
    _quant(13, blocks.Q5_K),
    _quant(14, blocks.Q6_K),
    GgmlType(15, "Q8_K", 256, 292),
    GgmlType(16, "IQ2_XXS", 256, 66),
    GgmlType(17, "IQ2_XS", 256, 74),
    GgmlType(18, "IQ3_XXS", 256, 98),
    GgmlType(19, "IQ1_S", 256, 50),
    GgmlType(20, "IQ4_NL", 32, 18),
    GgmlType(21, "IQ3_S", 256, 110),
    GgmlType(22, "IQ2_S", 256, 82),
    GgmlType(23, "IQ4_XS", 256, 136),
    GgmlType(24, "I8", 1, 1),
    GgmlType(25, "I16", 1, 2),
    GgmlType(26, "I32", 1, 4),
    GgmlType(27, "I64", 1, 8),
    GgmlType(28, "F64", 1, 8),
    GgmlType(29, "IQ1_M", 256, 56),
    GgmlType(30, "BF16", 1, 2, "bf16"),
    GgmlType(31, "Q4_0_4_4", 32, 18),
    GgmlType(32, "Q4_0_4_8", 32, 18),
    GgmlType(33, "Q4_0_8_8", 32, 18),
    GgmlType(34, "TQ1_0", 256, 54),
    GgmlType(35, "TQ2_0", 256, 66),
    GgmlType(36, "IQ4_NL_4_4", 32, 18),
    GgmlType(37, "IQ4_NL_4_8", 32, 18),
    GgmlType(38, "IQ4_NL_8_8", 32, 18),
    GgmlType(39, "MXFP4", 32, 17),
    GgmlType(40, "NVFP4", 64, 36),
    GgmlType(41, "Q1_0", 128, 18),
)
TYPES: dict[int, GgmlType] = {t.id: t for t in _TYPES}
"""Every type number that GGML has given out, as far as befit knows."""


def by_id(number: int) -> GgmlType:
    """The type with that number; one that befit has never heard of has no size and cannot be read."""
    return TYPES.get(number) or GgmlType(number, f"number {number}", 0, 0)
