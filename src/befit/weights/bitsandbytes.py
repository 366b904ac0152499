"""Checkpoints that bitsandbytes quantised: nf4 and fp4 (a table of 16 values), and int8 with a scale a row.

    4 bits  weight uint8 [n / 2, 1]: two weights a byte, the first in the high bits, rows one after the other;
            weight.absmax, one for each block of 64 weights: float32, or (nested) uint8 into weight.nested_quant_map,
            times weight.nested_absmax of 256 of them, plus an offset; weight.quant_map float32 [16];
            weight.quant_state.bitsandbytes__nf4 (or fp4): JSON with shape, blocksize, nested_offset …
    8 bits  weight int8 [out, in], SCB float32 [out]: w = q * SCB / 127

Source: bitsandbytes-foundation/bitsandbytes, functional.py (QuantState) and nn/modules.py. The values of nf4 and fp4
are not evenly spaced, so they are requantised to 8-bit integers; int8 keeps its integers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np

from befit.errors import CorruptFile, UnsupportedModel
from befit.weights.blocks import Q8_0
from befit.weights.packed import Made, Raw, Reader, check_columns, nearest_q8_0, need, q8_0_blocks
from befit.weights.tensor import F32, U8

_STATE = "weight.quant_state.bitsandbytes__"


def reader(settings: Mapping[str, Any], where: str) -> Reader:
    """The reader of a checkpoint; what it is is said by each module."""

    def read(module: str, parts: Mapping[str, Raw]) -> Made | None:
        state = next((name for name in parts if name.startswith(_STATE)), None)
        if state is not None:
            return _four_bits(module, parts, state)
        return _int8(module, parts) if "SCB" in parts else None

    return read


def _four_bits(module: str, parts: Mapping[str, Raw], state: str) -> Made:
    kind = state.removeprefix(_STATE)
    if kind not in ("nf4", "fp4"):
        raise UnsupportedModel(
            f"module {module!r:.100} is of bitsandbytes' kind {kind!r:.40}; befit reads nf4 and fp4."
        )
    try:
        found = json.loads(parts[state].array("U8").tobytes())
        rows, columns = (int(n) for n in found["shape"])
        block, offset = int(found["blocksize"]), float(found.get("nested_offset") or 0.0)
        nested_block = int(found.get("nested_blocksize") or 0)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CorruptFile(f"tensor {parts[state].name!r:.100}: {type(error).__name__}: {error}.") from None
    check_columns(module, columns)
    if min(rows, columns, block) < 1:
        raise CorruptFile(f"tensor {parts[state].name!r:.100}: shape {[rows, columns]} in blocks of {block}.")
    weight, table, absmax = (need(module, parts, f"weight{name}") for name in ("", ".quant_map", ".absmax"))
    table.check(16)
    blocks = -(-rows * columns // block)
    absmax.check(blocks)
    if 2 * prod(weight.shape) < rows * columns:
        raise CorruptFile(
            f"tensor {weight.name!r:.100} has {prod(weight.shape)} bytes for {rows} by {columns} weights."
        )
    uses = tuple(name for name in parts if name == "weight" or name.startswith("weight."))
    nested = "weight.nested_absmax" in parts
    if nested:
        if nested_block < 1:
            raise CorruptFile(f"tensor {parts[state].name!r:.100}: nested_blocksize is {nested_block}.")
        parts["weight.nested_absmax"].check(-(-blocks // nested_block))
        need(module, parts, "weight.nested_quant_map").check(256)

    def scales() -> F32:
        if not nested:
            return absmax.floats()
        outer = np.repeat(parts["weight.nested_absmax"].floats(), nested_block)[:blocks]
        inner = parts["weight.nested_quant_map"].floats()[absmax.array("U8")]
        found: F32 = inner * outer + np.float32(offset)
        return found

    def make() -> U8:
        packed, s = weight.array("U8").reshape(-1), scales()
        codes = table.floats()
        both = np.stack([np.repeat(codes, 16), np.tile(codes, 16)], axis=1)  # weights of each byte, [256, 2]
        pairs = both.view(np.uint64).reshape(-1)  # looked up at once

        def rows_at(start: int, stop: int) -> F32:
            # Columns are a multiple of 32, so rows begin with a byte; a block may begin within a row.
            inside = packed[start * columns // 2 : stop * columns // 2]
            values: F32 = np.take(pairs, inside, mode="clip").view(np.float32)
            first, last = start * columns // block, -(-stop * columns // block)
            spread = np.repeat(s[first:last], block)[start * columns - first * block :][: values.size]
            np.multiply(values, spread, out=values)
            return values.reshape(stop - start, columns)

        return nearest_q8_0((rows, columns), rows_at)

    note = f"bitsandbytes {kind} is requantised to Q8_0"
    return Made((rows, columns), f"bitsandbytes {kind}", Q8_0, uses, make, note)


def _int8(module: str, parts: Mapping[str, Raw]) -> Made:
    weight, scale = need(module, parts, "weight"), parts["SCB"]
    rows, columns = weight.matrix()
    scale.check(rows)
    check_columns(module, columns)
    form = parts.get("weight_format")
    if form is not None and form.array("U8").any():
        raise UnsupportedModel(f"tensor {form.name!r:.100} says that rows are not one after the other; save it anew.")

    def make() -> U8:
        return q8_0_blocks(weight.array("I8"), (scale.floats() / np.float32(127))[:, None])

    uses = ("weight", "SCB", "weight_format")[: 3 if form is not None else 2]
    note = "scales of bitsandbytes int8 are rounded to float16, by at most 1 part in 2048; outliers are not kept apart"
    return Made((rows, columns), "bitsandbytes int8", Q8_0, uses, make, note)
