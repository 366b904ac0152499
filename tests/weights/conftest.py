"""A tiny GGUF writer that can also write what no writer should."""

from __future__ import annotations

from struct import pack
from typing import Any, NamedTuple

import pytest

CODES = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}
TYPES = {"u8": 0, "i8": 1, "u16": 2, "i16": 3, "u32": 4, "i32": 5, "f32": 6, "bool": 7, "str": 8, "array": 9}
TYPES |= {"u64": 10, "i64": 11, "f64": 12}


class Key(NamedTuple):
    """type: one of TYPES, its number, or for arrays a pair ("array", element type) to any depth."""

    name: str | bytes
    type: Any
    value: Any


class Entry(NamedTuple):
    """A tensor: GGUF order of dims (columns first), type number, data; offset None puts it after the one before."""

    name: str | bytes
    dims: list[int]
    type: int
    data: bytes
    offset: int | None = None


class Gguf:
    """GGUF as bytes, put together by hand so that tests own every field."""

    Key = Key
    Entry = Entry

    @staticmethod
    def text(value: str | bytes) -> bytes:
        raw = value.encode() if isinstance(value, str) else value
        return pack("<Q", len(raw)) + raw

    @classmethod
    def value(cls, kind: Any, value: Any) -> tuple[int, bytes]:
        """The type number and the bytes of a value."""
        if isinstance(kind, tuple):
            element = (
                cls.value(kind[1], value[0])[0] if value else TYPES["array" if isinstance(kind[1], tuple) else kind[1]]
            )
            items = b"".join(cls.value(kind[1], item)[1] for item in value)
            return TYPES["array"], pack("<IQ", element, len(value)) + items
        number = TYPES[kind] if isinstance(kind, str) else kind
        if isinstance(value, bytes) and number != TYPES["str"]:
            return number, value  # as it is: hostile values
        return number, cls.text(value) if number == TYPES["str"] else pack("<" + CODES[number], value)

    @classmethod
    def build(
        cls,
        keys: list[Key] | None = None,
        tensors: list[Entry] | None = None,
        *,
        version: int = 3,
        magic: bytes = b"GGUF",
        n_keys: int | None = None,
        n_tensors: int | None = None,
        alignment: int = 32,
    ) -> bytes:
        keys, tensors = keys or [], tensors or []
        out = bytearray(magic + pack("<I", version))
        out += pack("<QQ", len(tensors) if n_tensors is None else n_tensors, len(keys) if n_keys is None else n_keys)
        for key in keys:
            number, raw = cls.value(key.type, key.value)
            out += cls.text(key.name) + pack("<I", number) + raw
        data = bytearray()
        for tensor in tensors:
            data += bytes(-len(data) % alignment)
            offset = len(data) if tensor.offset is None else tensor.offset
            out += cls.text(tensor.name) + pack(f"<I{len(tensor.dims)}Q", len(tensor.dims), *tensor.dims)
            out += pack("<IQ", tensor.type, offset)
            data += tensor.data
        if tensors:
            out += bytes(-len(out) % alignment)
        return bytes(out + data)

    @classmethod
    def small(cls, version: int = 3) -> bytes:
        """A small valid file with every kind of value and several kinds of tensors."""
        keys = [
            Key("general.architecture", "str", "llama"),
            Key("general.alignment", "u32", 64),
            *(Key(f"a.{name}", name, 1) for name in TYPES if name not in ("str", "array")),
            Key("a.numbers", ("array", "i32"), [-1, 0, 7]),
            Key("a.flags", ("array", "bool"), [True, False]),
            Key("a.words", ("array", "str"), ["", "two", "drei é"]),
            Key("a.deep", ("array", ("array", "u8")), [[1, 2], [], [3]]),
        ]
        tensors = [
            Entry("norm", [4], 0, pack("<4f", 1, 2, 3, 4)),
            Entry("matrix", [32, 2], 2, bytes(range(36))),
            Entry("half", [2, 2, 2], 1, bytes(16)),
            Entry("exotic", [256, 1], 17, bytes(74)),
        ]
        return cls.build(keys, tensors, version=version, alignment=64)


@pytest.fixture(scope="session")
def gguf_bytes() -> type[Gguf]:
    return Gguf
