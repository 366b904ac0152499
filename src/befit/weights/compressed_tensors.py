"""Checkpoints in the formats of compressed-tensors: packed integers of 2, 3, 4 or 8 bits, plain int8, and FP8.

    pack-quantized   weight_packed int32 [out, in * bits / 32], a row's integers plus 2^(bits - 1) as a stream of bits;
                     weight_shape int64 [2], weight_scale float [out, groups], and, where it is asymmetric,
                     weight_zero_point int32 [out * bits / 32, groups], a stream down the words
    int-quantized    weight int8 [out, in], weight_scale float [out, groups], weight_zero_point int8 like it
    float-quantized  weight F8_E4M3 [out, in], weight_scale: see `fp8`

Source: neuralmagic/compressed-tensors, compressors/. A weight is scale * (q - zero). Activations are not quantised as
the configuration says (W8A8 runs as W8A16), so their scales are not used.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from befit.errors import CorruptFile, UnsupportedModel
from befit.weights.blocks import Q4_0, Q8_0
from befit.weights.fp8 import read_fp8
from befit.weights.packed import (
    Made,
    Raw,
    Reader,
    check_columns,
    nearest_q8_0,
    need,
    nibbles_of,
    q4_0_blocks,
    q8_0_blocks,
    rounding,
    scale_bits,
    unpack_words,
    zero_blocks,
    zero_format,
)
from befit.weights.tensor import F32, U8

_FORMATS = ("pack-quantized", "int-quantized", "float-quantized", "naive-quantized", "dense", "mixed-precision")
_OF_ACTIVATIONS = ("input_scale", "input_zero_point", "output_scale", "output_zero_point")


def reader(settings: Mapping[str, Any], where: str) -> Reader:
    """The reader of a checkpoint with these settings. Raises UnsupportedModel for formats that befit does not read."""
    form = settings.get("format")
    if form not in _FORMATS:
        raise UnsupportedModel(f"{where}: compressed-tensors format {form!r:.60}; befit reads {', '.join(_FORMATS)}.")
    for name in ("sparsity_config", "transform_config"):
        other = settings.get(name)
        if other and not (isinstance(other, Mapping) and other.get("format", "other") == "dense"):
            raise UnsupportedModel(
                f"{where}: compressed-tensors with {name} {other!r:.80}, which befit does not apply."
            )
    block, widths = _groups(settings)
    if strange := widths - {2, 3, 4, 8}:
        raise UnsupportedModel(f"{where}: compressed-tensors with {min(strange)} bits; befit reads 2, 3, 4 and 8.")

    def read(module: str, parts: Mapping[str, Raw]) -> Made | None:
        if "weight_packed" in parts:
            return _packed(module, parts)
        if "weight" in parts and parts["weight"].dtype == "I8":
            return _int8(module, parts)
        return read_fp8(module, parts, block)

    return read


def _groups(settings: Mapping[str, Any]) -> tuple[list[int] | None, set[int]]:
    """The block of FP8 scales, if any group of the configuration has one, and the bits of all groups."""
    groups, found, widths = settings.get("config_groups"), None, set()
    for group in groups.values() if isinstance(groups, Mapping) else ():
        weights = group.get("weights") if isinstance(group, Mapping) else None
        if not isinstance(weights, Mapping):
            continue
        if type(bits := weights.get("num_bits")) is int:
            widths.add(bits)
        block = weights.get("block_structure")
        if isinstance(block, list) and len(block) == 2 and all(type(n) is int for n in block):
            found = block
    return found, widths


def _packed(module: str, parts: Mapping[str, Raw]) -> Made:
    packed, scales, shape = (need(module, parts, f"weight_{name}") for name in ("packed", "scale", "shape"))
    shape.check(2)
    rows, columns = (int(n) for n in shape.array("I64", "I32"))
    words = packed.matrix()[1]
    packed.check(rows, words)
    bits, rest = divmod(32 * words, max(columns, 1))
    if rest or bits not in (2, 3, 4, 8):
        raise UnsupportedModel(
            f"module {module!r:.100} packs {columns} columns in {words} words; befit reads 2, 3, 4 and 8 bits a weight."
        )
    groups = scales.matrix()[1]
    scales.check(rows, groups)
    zeros_in = parts.get("weight_zero_point")
    order = _order(parts, columns, groups)
    uses = tuple(
        name
        for name in (
            "weight_packed",
            "weight_scale",
            "weight_shape",
            "weight_zero_point",
            "weight_g_idx",
            *_OF_ACTIVATIONS,
        )
        if name in parts
    )
    if zeros_in is not None:
        zeros_in.check(-(-rows * bits // 32), groups)
    group = -(-columns // groups)
    check_columns(module, columns, 1 if order is not None else groups)

    def integers() -> U8:
        return unpack_words(packed.array("I32"), bits)

    def zeros() -> U8:  # [rows, groups]
        if zeros_in is None:
            return np.full((rows, groups), 1 << (bits - 1), np.uint8)
        return np.ascontiguousarray(unpack_words(zeros_in.array("I32").T, bits)[:, :rows].T)

    def nibbles() -> U8:
        return nibbles_of(packed.array("I32"), bits)

    def halves() -> Any:
        return scale_bits(scales)

    kind = f"compressed-tensors {bits}-bit, groups of {group}"
    if order is None and bits < 8:
        note = rounding(scales, "compressed-tensors", bfloat16=True)
        if bits == 4 and zeros_in is None and scales.dtype == "F16":
            return Made((rows, columns), kind, Q4_0, uses, lambda: q4_0_blocks(nibbles(), halves()), note)
        form = zero_format(scales)
        return Made((rows, columns), kind, form, uses, lambda: zero_blocks(nibbles(), halves(), zeros()), note)
    if order is None and zeros_in is None:
        return Made(
            (rows, columns),
            kind,
            Q8_0,
            uses,
            lambda: q8_0_blocks((integers() ^ np.uint8(0x80)).view(np.int8), scales.floats()),
            rounding(scales, "compressed-tensors"),
        )
    columns_of = np.arange(columns) // group if order is None else order

    def make() -> U8:
        q, z, s = integers(), zeros().astype(np.float32), scales.floats()

        def values(start: int, stop: int) -> F32:
            zero, scale = (np.take(each[start:stop], columns_of, axis=1, mode="clip") for each in (z, s))
            result: F32 = (q[start:stop] - zero) * scale
            return result

        return nearest_q8_0((rows, columns), values)

    what = "in act-order" if order is not None else "with zeros of its own"
    return Made((rows, columns), kind, Q8_0, uses, make, f"compressed-tensors {bits}-bit {what} is requantised to Q8_0")


def _int8(module: str, parts: Mapping[str, Raw]) -> Made:
    weight, scales = parts["weight"], need(module, parts, "weight_scale")
    rows, columns = weight.matrix()
    groups = scales.matrix()[1] if len(scales.shape) == 2 else 1
    single = scales.shape in ((), (1,), (1, 1))
    if not single and scales.shape != (rows,):
        scales.check(rows, groups)
    check_columns(module, columns, groups)
    zeros_in = parts.get("weight_zero_point")
    uses = tuple(n for n in ("weight", "weight_scale", "weight_zero_point", *_OF_ACTIVATIONS) if n in parts)
    kind = "compressed-tensors int8"

    def factors() -> F32:  # [rows, groups]
        found = scales.floats().reshape(-1, groups)
        return np.repeat(found, rows, axis=0) if single else found

    if zeros_in is None or not zeros_in.array("I8").any():

        def exact() -> U8:
            return q8_0_blocks(weight.array("I8"), factors())

        return Made((rows, columns), kind, Q8_0, uses, exact, rounding(scales, "compressed-tensors"))

    def make() -> U8:
        q, s = weight.array("I8"), factors()
        z = np.broadcast_to(zeros_in.array("I8").reshape(-1, groups), (rows, groups)).astype(np.float32)
        of = np.arange(columns) // (columns // groups)
        return nearest_q8_0((rows, columns), lambda a, b: (q[a:b] - z[a:b, of]) * s[a:b, of])

    return Made((rows, columns), kind, Q8_0, uses, make, f"{kind} with zeros of its own is requantised to Q8_0")


def _order(parts: Mapping[str, Raw], columns: int, groups: int) -> Any:
    """The group of each column of a module in act-order, or None."""
    stored = parts.get("weight_g_idx")
    if stored is None:
        return None
    stored.check(columns)
    order = stored.array("I32", "I64")
    if (order < -1).any() or (order >= groups).any():
        raise CorruptFile(f"tensor {stored.name!r:.100} names a group that is none of the {groups} there are.")
    if (order == -1).all() or (columns % groups == 0 and (order == np.arange(columns) // (columns // groups)).all()):
        return None
    return order
