"""FP8 checkpoints: e4m3 weights with a scale for the matrix, each row, or each block of rows and columns.

    weight            F8_E4M3 [out, in]
    weight_scale_inv  float [out / 128, in / 128], or weight_scale [], [1], [out, 1] or in blocks: multiplies the weight

Sources: the e4m3 of the Open Compute Project's 8-bit floating point specification (no infinities, one NaN a sign);
transformers' fine-grained FP8 quantiser for the names. CPUs get the weights requantised to 8-bit integers, cards get
them as they are. Activations are not rounded to FP8, or with scales of their own, so the file's for them are not used.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from befit.errors import CorruptFile, UnsupportedModel
from befit.weights.blocks import Q8_0
from befit.weights.packed import Made, Raw, Reader, check_columns, nearest_q8_0
from befit.weights.tensor import F32, U8, Fp8

_SCALES = ("weight_scale_inv", "weight_scale")
_OF_ACTIVATIONS = ("input_scale", "input_scale_ub", "activation_scale", "output_scale")


def _table() -> F32:
    bits = np.arange(256)
    exponent, fraction = (bits >> 3) & 15, bits & 7
    size = np.where(exponent == 0, fraction / 8 * 2.0**-6, (1 + fraction / 8) * 2.0 ** (exponent - 7.0))
    size[(bits & 0x7F) == 0x7F] = np.nan
    return np.where(bits < 128, size, -size).astype(np.float32)


E4M3 = _table()
"""The value of each byte."""


def reader(settings: Mapping[str, Any], where: str) -> Reader:
    """The reader of a checkpoint with these settings. Raises UnsupportedModel for another kind of FP8."""
    kind = settings.get("fmt") or settings.get("weight_format") or "e4m3"
    if kind != "e4m3":
        raise UnsupportedModel(f"{where}: FP8 of kind {kind!r:.40}; befit reads e4m3.")
    block = settings.get("weight_block_size")
    if block is not None and not (isinstance(block, list) and len(block) == 2 and all(type(n) is int for n in block)):
        raise CorruptFile(f"{where}: weight_block_size is {block!r:.80}, not two numbers.")
    return lambda module, parts: read_fp8(module, parts, block)


def read_fp8(module: str, parts: Mapping[str, Raw], block: list[int] | None) -> Made | None:
    """The module, if its weight is FP8. block: rows and columns of a block of scales, where it has such."""
    weight = parts.get("weight")
    if weight is None or weight.dtype != "F8_E4M3":
        return None
    rows, columns = weight.matrix()
    check_columns(module, columns)
    scale = next((parts[name] for name in _SCALES if name in parts), None)
    if scale is None:
        raise CorruptFile(f"module {module!r:.100} has FP8 weights and no {' or '.join(_SCALES)}; fetch it again.")
    tall, wide = _block(scale, rows, columns, block)
    uses = tuple(name for name in ("weight", *_SCALES, *_OF_ACTIVATIONS) if name in parts)

    def read() -> tuple[U8, F32]:
        return weight.array("F8_E4M3"), scale.floats().reshape(-(-rows // tall), -(-columns // wide))

    def make() -> U8:
        bits, s = read()

        def values(start: int, stop: int) -> F32:
            down = s[np.arange(start, stop) // tall]
            across = down if s.shape[1] == 1 else np.repeat(down, wide, axis=1)[:, :columns]
            result: F32 = np.take(E4M3, bits[start:stop], mode="clip")
            return np.multiply(result, across, out=result)

        return nearest_q8_0((rows, columns), values)

    note = "FP8 (e4m3) is requantised to Q8_0 on CPUs, where activations are not rounded to FP8"
    return Made((rows, columns), "FP8 e4m3", Q8_0, uses, make, note, Fp8(tall, wide, read))


def _block(scale: Raw, rows: int, columns: int, block: list[int] | None) -> tuple[int, int]:
    """Rows and columns that share a scale."""
    if scale.shape in ((), (1,), (1, 1)):
        return rows, columns
    if scale.shape in ((rows,), (rows, 1)):
        return 1, columns
    if block is not None and min(block) > 0 and scale.shape == (-(-rows // block[0]), -(-columns // block[1])):
        return block[0], block[1]
    raise CorruptFile(
        f"tensor {scale.name!r:.100} is {list(scale.shape)}: neither one scale for the matrix of {rows} by {columns}, "
        f"nor one a row, nor one a block of {block}."
    )
