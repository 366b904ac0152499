"""The header of a safetensors file: names, types, shapes and places of its tensors, from untrusted bytes.

    length u64 | that many bytes of JSON: {"name": {"dtype", "shape", "data_offsets": [begin, end]}, …} | data

Source: the safetensors format (huggingface/safetensors, README, "Format").
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import prod

from befit.errors import CorruptFile

LENGTH_BYTES = 8
MAX_HEADER_BYTES = 100_000_000
"""The format's own limit."""

BITS = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U8": 8, "BOOL": 8,
    "U16": 16, "U32": 32, "U64": 64, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F4": 4,
}  # fmt: skip
"""Bits of an element by type name."""


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor; begin and end count from the end of the header."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def nbytes(self) -> int:
        """Bytes of its data."""
        return self.end - self.begin


def header_length(head: bytes, where: str) -> int:
    """Bytes of JSON that follow the first eight bytes. Raises CorruptFile when that cannot be."""
    length = int.from_bytes(head[:LENGTH_BYTES], "little")
    if len(head) < LENGTH_BYTES or not 2 <= length <= MAX_HEADER_BYTES:
        raise CorruptFile(
            f"{where}: a header of {length} bytes, where safetensors allows 2 to {MAX_HEADER_BYTES}; fetch it again."
        )
    return length


def parse_header(text: bytes, where: str) -> dict[str, TensorEntry]:
    """The tensors that a header lists. Raises CorruptFile naming what is wrong."""
    try:
        listed = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CorruptFile(f"{where}: the header is no JSON ({error}); fetch it again.") from None
    if not isinstance(listed, dict):
        raise CorruptFile(f"{where}: the header is no JSON object; fetch it again.")
    return {name: _entry(name, value, where) for name, value in listed.items() if name != "__metadata__"}


def _entry(name: str, value: object, where: str) -> TensorEntry:
    try:
        dtype, shape, (begin, end) = value["dtype"], tuple(value["shape"]), value["data_offsets"]  # type: ignore[index]
        whole = all(type(number) is int and number >= 0 for number in (*shape, begin, end))
        bits = BITS[dtype]
    except (KeyError, TypeError, ValueError):
        what = f"tensor {name[:100]!r} has no type, shape and place that befit knows"
        raise CorruptFile(f"{where}: {what}; fetch it again.") from None
    if not whole or end - begin != -(-prod(shape) * bits // 8):
        raise CorruptFile(
            f"{where}: tensor {name[:100]!r} of type {dtype} and shape {list(shape)} lies at bytes {begin} to {end}, "
            f"which is not its {prod(shape) * bits // 8} bytes; fetch it again."
        )
    return TensorEntry(dtype, shape, begin, end)
