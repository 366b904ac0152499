"""AWQ checkpoints, version "gemm": 4 bits with whole zeros, w = scale * (q - zero), a scale a group of a column.

    qweight  int32 [in, out / 8]   eight outputs a word: nibble i of word j is output 8 j + (0, 2, 4, 6, 1, 3, 5, 7)[i]
    qzeros   int32 [in / group, out / 8]   likewise
    scales   float16 [in / group, out]

Source: casper-hansen/AutoAWQ, awq/modules/linear/gemm.py. The integers, zeros and scales are taken over as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from befit.errors import UnsupportedModel
from befit.weights.packed import (
    GROUP,
    Made,
    Raw,
    Reader,
    check_columns,
    need,
    nibble_pairs,
    rounding,
    scale_bits,
    unpack_words,
    zero_blocks,
    zero_format,
)
from befit.weights.tensor import U8

_OUTPUTS = (0, 2, 4, 6, 1, 3, 5, 7)
"""The output in each of a word's eight nibbles."""
_WORDS = 16
"""So many words of a row are turned at a time: a line of the cache."""


def reader(settings: Mapping[str, Any], where: str) -> Reader:
    """The reader of a checkpoint with these settings. Raises UnsupportedModel for other versions and widths."""
    version = str(settings.get("version", "gemm")).lower()
    bits = settings.get("bits", settings.get("w_bit", 4))
    if version != "gemm" or bits != 4:
        raise UnsupportedModel(
            f"{where}: AWQ of version {version!r:.40} with {bits!r:.40} bits; befit reads gemm, 4 bits."
        )
    return _read


def _read(module: str, parts: Mapping[str, Raw]) -> Made | None:
    if "qweight" not in parts:
        return None
    packed, zeros, scales = (need(module, parts, name) for name in ("qweight", "qzeros", "scales"))
    columns, words = packed.matrix()
    groups, _ = scales.matrix()
    zeros.check(groups, words)
    scales.check(groups, 8 * words)
    group = columns // groups
    check_columns(module, columns, groups)

    def make() -> U8:
        spread = np.ascontiguousarray(scale_bits(scales).T)
        return zero_blocks(_nibbles(packed.array("I32")), spread, _outputs(zeros.array("I32")))

    note = rounding(scales, "AWQ", bfloat16=True)
    kind = f"AWQ 4-bit, groups of {group}"
    return Made((8 * words, columns), kind, zero_format(scales), ("qweight", "qzeros", "scales"), make, note)


def _outputs(words: Any) -> U8:
    """[n, out / 8] words to [out, n] integers."""
    n, count = words.shape
    nibbles = unpack_words(np.ascontiguousarray(words.T)[:, :, None], 4)  # [out / 8, n, 8]
    return np.ascontiguousarray(nibbles[:, :, np.argsort(_OUTPUTS)].transpose(0, 2, 1)).reshape(8 * count, n)


def _nibbles(words: Any) -> U8:
    """[in, out / 8] words to [out, blocks, 16]: of each block of inputs, the first half in the low bits."""
    columns, count = words.shape
    out = np.empty((count, 8, columns // GROUP, GROUP // 2), np.uint8)
    for start in range(0, count, _WORDS):
        stop = min(count, start + _WORDS)
        parts = np.ascontiguousarray(words[:, start:stop].T).view(np.uint32).reshape(stop - start, -1, 2, GROUP // 2)
        even, odd = nibble_pairs(parts[:, :, 0], parts[:, :, 1])
        for at in range(4):
            out[start:stop, _OUTPUTS[2 * at]] = even[..., at]
            out[start:stop, _OUTPUTS[2 * at + 1]] = odd[..., at]
    return out.reshape(8 * count, columns // GROUP, GROUP // 2)
