"""GPTQ checkpoints: 2, 3, 4 or 8 bits with whole zeros, w = scale * (q - zero), a scale for each group of a column.

    qweight  int32 [in * bits / 32, out]   a column's integers as a stream of bits down the words
    qzeros   int32 [groups, out * bits / 32]   zeros, minus one in the first version of the format, along the words
    scales   float [groups, out]
    g_idx    int32 [in]   the group of each input

Source: AutoGPTQ/AutoGPTQ, auto_gptq/nn_modules/qlinear, and ModelCloud/GPTQModel; "gptq_v2" keeps zeros as they are.
With `desc_act` ("act-order") neighbours belong to different groups, which no block format has: such a module is
requantised to 8 bits. Otherwise integers, zeros and scales are taken over as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from befit.errors import CorruptFile, UnsupportedModel
from befit.weights.blocks import Q4_0, Q8_0
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

_BITS = (2, 3, 4, 8)


def reader(settings: Mapping[str, Any], where: str) -> Reader:
    """The reader of a checkpoint with these settings. Raises UnsupportedModel for other widths and layouts."""
    bits, layout = settings.get("bits"), settings.get("checkpoint_format") or "gptq"
    if bits not in _BITS or layout not in ("gptq", "gptq_v2"):
        raise UnsupportedModel(
            f"{where}: GPTQ with {bits!r:.40} bits and layout {layout!r:.40}; befit reads {', '.join(map(str, _BITS))} "
            "bits in layouts gptq and gptq_v2."
        )
    added = 0 if layout == "gptq_v2" else 1
    return lambda module, parts: _read(module, parts, bits, added)


def _read(module: str, parts: Mapping[str, Raw], bits: int, added: int) -> Made | None:
    if "qweight" not in parts:
        return None
    packed, packed_zeros, scales = (need(module, parts, name) for name in ("qweight", "qzeros", "scales"))
    words, rows = packed.matrix()
    # A module may have a width of its own, which its zeros tell.
    bits = next((b for b in _BITS if 32 * packed_zeros.matrix()[1] == b * rows), bits)
    columns, (groups, _) = words * 32 // bits, scales.matrix()
    scales.check(groups, rows)
    packed_zeros.check(groups, -(-rows * bits // 32))
    uses = ("qweight", "qzeros", "scales", "g_idx")[: 4 if "g_idx" in parts else 3]
    order = _order(parts, columns, groups)
    group = -(-columns // groups)
    kind = f"GPTQ {bits}-bit, groups of {group}"

    def zeros() -> U8:  # [rows, groups]
        stored = packed_zeros.array("I32").view(np.uint32)
        if added and bits != 3:  # one was taken off each zero by subtracting whole words, with borrows
            stored = stored + np.uint32(sum(1 << at for at in range(0, 32, bits)))
        found = unpack_words(stored, bits)[:, :rows]
        if added and bits == 3:
            found = (found + np.uint8(1)) & np.uint8(7)
        return np.ascontiguousarray(found.T)

    def integers() -> U8:  # [rows, columns]
        return unpack_words(packed.array("I32").T, bits)

    def nibbles() -> U8:
        return nibbles_of(packed.array("I32").T, bits)

    def halves() -> Any:
        return np.ascontiguousarray(scale_bits(scales).T)

    if order is None:
        check_columns(module, columns, groups)
        middle = bool((zeros() == 1 << (bits - 1)).all())
        if bits == 4 and middle and scales.dtype == "F16":
            return Made((rows, columns), kind, Q4_0, uses, lambda: q4_0_blocks(nibbles(), halves()))
        if bits < 8:
            form = zero_format(scales)
            rounded = rounding(scales, "GPTQ", bfloat16=True)
            return Made((rows, columns), kind, form, uses, lambda: zero_blocks(nibbles(), halves(), zeros()), rounded)
        if middle:
            return Made(
                (rows, columns),
                kind,
                Q8_0,
                uses,
                lambda: q8_0_blocks((integers() ^ np.uint8(0x80)).view(np.int8), scales.floats().T),
                rounding(scales, "GPTQ"),
            )
        order = np.arange(columns) // group
        note = f"GPTQ {bits}-bit with zeros of its own is requantised to Q8_0"
    else:
        check_columns(module, columns)
        kind += ", act-order"
        note = "GPTQ in act-order is requantised to Q8_0"

    def make() -> U8:
        q, z, s = integers(), zeros().astype(np.float32), scales.floats().T

        def values(start: int, stop: int) -> F32:
            zero, scale = (np.take(each[start:stop], order, axis=1, mode="clip") for each in (z, s))
            result: F32 = (q[start:stop] - zero) * scale
            return result

        return nearest_q8_0((rows, columns), values)

    return Made((rows, columns), kind, Q8_0, uses, make, note)


def _order(parts: Mapping[str, Raw], columns: int, groups: int) -> Any:
    """The group of each column, or None where they are in order, `columns / groups` each."""
    if "g_idx" not in parts:
        return None
    stored = parts["g_idx"]
    stored.check(columns)
    order = stored.array("I32", "I64")
    if (order < 0).any() or (order >= groups).any():
        raise CorruptFile(f"tensor {stored.name!r:.100} names a group that is none of the {groups} there are.")
    return None if columns % groups == 0 and (order == np.arange(columns) // (columns // groups)).all() else order
