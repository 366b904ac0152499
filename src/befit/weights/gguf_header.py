"""Reading a GGUF header from untrusted bytes: a bounds-checked cursor, and metadata that decodes when asked for.

A header is a list of (key, type, value). Strings carry 64-bit lengths and arrays 64-bit counts, so nothing here trusts
a number before comparing it with the bytes that are left; nothing is allocated from a count alone.
Source: the GGUF specification (ggml, `docs/gguf.md`).
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from struct import Struct
from typing import Any, NoReturn

import numpy as np

from befit.errors import CorruptFile

MAX_KEYS = 1 << 16
MAX_NAME_BYTES = 1024
"""GGUF allows 65535 for keys and 64 for tensors' names; what is in use stays below 100."""
MAX_ARRAY_DEPTH = 4
MAX_INNER_ARRAYS = 1 << 16
MAX_ARRAY_ITEMS = 1 << 23
"""Elements of all arrays of a file together. The largest vocabularies need about 1.5 million; without a bound, a huge
file of nothing but empty strings would take minutes to walk. The same holds for the other limits."""
MAX_VALUE_BYTES = 1 << 26
"""One value, which is held in memory once it is asked for. The largest vocabularies take about 10 million."""

_BOOL, _STRING, _ARRAY = 7, 8, 9
_CODES = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", _BOOL: "B", 10: "Q", 11: "q", 12: "d"}
_SCALARS = {kind: Struct("<" + code) for kind, code in _CODES.items()}
_NUMPY: dict[int, np.dtype[Any]] = {kind: np.dtype("<" + code) for kind, code in _CODES.items()}
_LEAST_BYTES = {kind: layout.size for kind, layout in _SCALARS.items()} | {_STRING: 8, _ARRAY: 12}
_U32, _U64 = _SCALARS[4], _SCALARS[10]


def quote(name: str) -> str:
    """A name from a file as an error message can show it: quoted, escaped, and not too long."""
    return repr(name if len(name) <= 100 else name[:97] + "...")


class Cursor:
    """A position in a mapped file. Every read is checked; `what` says in errors what is being read."""

    def __init__(self, path: Path, data: mmap.mmap, position: int = 0) -> None:
        self.path = path
        self.data = data
        self.size = len(data)
        self.position = position
        self.what = "header"
        self.items_left = MAX_ARRAY_ITEMS
        self.arrays_left = MAX_INNER_ARRAYS

    def fail(self, problem: str, at: int | None = None) -> NoReturn:
        """Raise CorruptFile: the file, the thing, the byte and the problem."""
        at = self.position if at is None else at
        raise CorruptFile(
            f"{self.path}: {self.what} at byte {at} of {self.size}: {problem}; "
            "the file is damaged or incomplete, fetch it again"
        )

    def take(self, count: int) -> int:
        """Step over `count` bytes and return where they start."""
        start = self.position
        if count > self.size - start:
            self.fail(f"needs {count} bytes where {self.size - start} are left")
        self.position = start + count
        return start

    def scalar(self, layout: Struct) -> int | float:
        """One number of that layout."""
        value: int | float = layout.unpack_from(self.data, self.take(layout.size))[0]
        return value

    def u32(self) -> int:
        """An unsigned 32-bit number."""
        return int(self.scalar(_U32))

    def u64(self) -> int:
        """An unsigned 64-bit number."""
        return int(self.scalar(_U64))

    def count(self, least_bytes: int, limit: int, things: str) -> int:
        """A 64-bit count of things that take at least `least_bytes` each, checked against the limit and the file."""
        count = self.u64()
        left = self.size - self.position
        if count > limit:
            self.fail(f"claims {count} {things}, more than the {limit} that befit accepts")
        if count * least_bytes > left:
            self.fail(f"claims {count} {things}, which need at least {count * least_bytes} bytes where {left} are left")
        return count

    def name(self) -> str:
        """A key or a tensor's name: a short UTF-8 string."""
        length = self.u64()
        if length > MAX_NAME_BYTES:
            self.fail(f"a name of {length} bytes, more than the {MAX_NAME_BYTES} that befit accepts")
        start = self.take(length)
        return self.decode(start, self.position)

    def decode(self, start: int, stop: int) -> str:
        """Bytes start:stop as UTF-8 text."""
        try:
            return str(self.data[start:stop], "utf-8")
        except UnicodeDecodeError as error:
            self.fail(f"text that is not UTF-8 ({error.reason})", start + error.start)


@dataclass(frozen=True, slots=True)
class _Text:
    """A string not decoded yet: bytes start:stop of the file."""

    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class _Items:
    """An array not decoded yet: `count` elements of type `kind` in bytes start:stop of the file."""

    kind: int
    count: int
    start: int
    stop: int


class Metadata(Mapping[str, Any]):
    """The key-value pairs of one GGUF file, in the file's order.

    Scalars are int, float or bool; strings str; numeric and bool arrays read-only one-dimensional NumPy arrays; string
    arrays list[str]; arrays of arrays a list of these. Lengths and counts are checked when the file is opened. Text is
    decoded on first access and then kept; `[]` raises CorruptFile when it is not UTF-8.
    """

    def __init__(self, cursor: Cursor, count: int) -> None:
        """Read `count` pairs at the cursor and leave it behind the last."""
        self._path, self._data = cursor.path, cursor.data
        self._values: dict[str, Any] = {}
        for index in range(count):
            cursor.what = f"metadata key {index + 1} of {count}"
            start = cursor.position
            key = cursor.name()
            cursor.what = f"metadata key {quote(key)}"
            if key in self._values:
                cursor.fail("the key is there twice", start)
            self._values[key] = _read(cursor, cursor.u32())

    def __getitem__(self, key: str) -> Any:
        value = self._values[key]
        if isinstance(value, _Text | _Items):
            cursor = Cursor(self._path, self._data)
            cursor.what = f"metadata key {quote(key)}"
            value = self._values[key] = _decode(cursor, value)
        return value

    def number(self, key: str, default: int) -> int:
        """An integer, of those that describe the file itself; the default when it is not there.

        Raises CorruptFile when it is anything but an integer of 0 or more.
        """
        value = self._values.get(key, default)
        if type(value) is int and value >= 0:
            return value
        shown = value if isinstance(value, int | float) else "text" if isinstance(value, _Text) else "an array"
        raise CorruptFile(
            f"{self._path}: metadata key {quote(key)} is {shown}, where GGUF has a number from 0; "
            "the file is damaged, fetch it again"
        )

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"<Metadata of {self._path}: {len(self)} keys>"


def _read(cursor: Cursor, kind: int) -> Any:
    """The value of that type at the cursor: a scalar, or where a string or an array lies."""
    if kind == _STRING:
        length = cursor.u64()
        start = cursor.take(length)
        _check_size(cursor, start)
        return _Text(start, cursor.position)
    if kind == _ARRAY:
        start = cursor.position
        array = _walk_array(cursor, depth=1)
        _check_size(cursor, start)
        return array
    if kind not in _SCALARS:
        cursor.fail(f"value type {kind}, where GGUF has types 0 to 12", cursor.position - 4)
    value = cursor.scalar(_SCALARS[kind])
    if kind != _BOOL:
        return value
    if value not in (0, 1):
        cursor.fail(f"a bool with the value {value}", cursor.position - 1)
    return bool(value)


def _check_size(cursor: Cursor, start: int) -> None:
    """Refuse a value of start:position that is too large to be metadata."""
    if cursor.position - start > MAX_VALUE_BYTES:
        problem = f"a value of {cursor.position - start} bytes, more than the {MAX_VALUE_BYTES} that befit accepts"
        cursor.fail(problem, start)


def _walk_array(cursor: Cursor, depth: int) -> _Items:
    """Find where the array at the cursor ends, and leave the cursor there."""
    if depth > MAX_ARRAY_DEPTH:
        cursor.fail(f"arrays nested more than {MAX_ARRAY_DEPTH} deep")
    kind = cursor.u32()
    if kind not in _LEAST_BYTES:
        cursor.fail(f"array element type {kind}, where GGUF has types 0 to 12", cursor.position - 4)
    limit = cursor.arrays_left if kind == _ARRAY else cursor.items_left
    count = cursor.count(_LEAST_BYTES[kind], limit, "array elements")
    start = cursor.position
    if kind == _ARRAY:
        cursor.arrays_left -= count
        for _ in range(count):
            _walk_array(cursor, depth + 1)
    else:
        cursor.items_left -= count
        if kind == _STRING:
            _walk_strings(cursor, count)
        else:
            cursor.take(count * _LEAST_BYTES[kind])
    return _Items(kind, count, start, cursor.position)


def _walk_strings(cursor: Cursor, count: int) -> None:
    """Step over `count` strings, reading their lengths and nothing else: a vocabulary has hundreds of thousands."""
    data, size, position = cursor.data, cursor.size, cursor.position
    unpack, last = _U64.unpack_from, cursor.size - 8
    for index in range(count):
        if position > last:
            cursor.fail(f"string {index} of {count} would start at byte {position}, past the end of the file")
        position += 8 + unpack(data, position)[0]
    if position > size:
        cursor.fail(f"the last of {count} strings would end at byte {position}, past the end of the file")
    cursor.position = position


def _decode(cursor: Cursor, value: _Text | _Items) -> Any:
    """The Python value of a string or an array that was found before; the cursor is there for its errors."""
    if isinstance(value, _Text):
        return cursor.decode(value.start, value.stop)
    if value.kind == _STRING:
        return _decode_strings(cursor, value)
    if value.kind == _ARRAY:
        cursor.position = value.start
        inner: list[Any] = []
        for _ in range(value.count):
            inner.append(_decode(cursor, items := _walk_array(cursor, depth=1)))
            cursor.position = items.stop
        return inner
    array = np.frombuffer(cursor.data[value.start : value.stop], dtype=_NUMPY[value.kind])
    if value.kind != _BOOL:
        return array
    wrong = np.flatnonzero(array > 1)
    if len(wrong):
        cursor.fail(f"a bool with the value {array[wrong[0]]}", value.start + int(wrong[0]))
    return array.view(np.bool_)


def _decode_strings(cursor: Cursor, value: _Items) -> list[str]:
    blob = cursor.data[value.start : value.stop]
    unpack = _U64.unpack_from
    texts: list[str] = []
    position = 0
    for index in range(value.count):
        start = position + 8
        position = start + unpack(blob, position)[0]
        try:
            texts.append(blob[start:position].decode())
        except UnicodeDecodeError as error:
            at = value.start + start + error.start
            cursor.fail(f"string {index} of {value.count} is not UTF-8 ({error.reason})", at)
    return texts
