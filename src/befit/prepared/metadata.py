"""A model file's metadata as JSON beside one blob of arrays, which reads several times faster than a GGUF header.

In the JSON a key has its value, or {"as": type, "items": n, "at": byte, "bytes": length} for an array in the blob:
"text" is strings in UTF-8 with a zero byte between each two; the other types are NumPy's names of little-endian
numbers.
Arrays of arrays, and strings that hold a zero byte themselves, stand in the JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

_TYPES = ("|u1", "|i1", "<u2", "<i2", "<u4", "<i4", "<u8", "<i8", "<f4", "<f8", "|b1")
_LIMIT = 1 << 64
MAX_DEPTH = 5


def encode(metadata: Mapping[str, Any]) -> tuple[bytes, bytes]:
    """The JSON and the blob."""
    blob = bytearray()
    fields: dict[str, Any] = {}
    for key, value in metadata.items():
        kind, data = _array(value)
        if kind is None:
            fields[key] = _plain(value)
        else:
            fields[key] = {"as": kind, "items": len(value), "at": len(blob), "bytes": len(data)}
            blob += data
    return json.dumps(fields, ensure_ascii=False, indent=1).encode(), bytes(blob)


def _array(value: Any) -> tuple[str | None, bytes]:
    """Type and bytes of a value that belongs in the blob; None for one that does not."""
    if isinstance(value, np.ndarray):
        array = value.astype(value.dtype.newbyteorder("<"))
        return array.dtype.str, array.tobytes()
    if isinstance(value, list) and all(isinstance(item, str) and "\0" not in item for item in value):
        return "text", "\0".join(value).encode()
    return None, b""


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value.tolist() if isinstance(value, np.ndarray) else value


def decode(text: bytes, blob: bytes) -> dict[str, Any]:
    """What was encoded, arrays read-only. Raises ValueError for anything that `encode` does not write."""
    try:
        fields = json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(fields, dict):
        raise ValueError("it is not an object")
    return {key: _restored(key, value, blob) for key, value in fields.items()}


def _restored(key: str, value: Any, blob: bytes) -> Any:
    if not isinstance(value, dict):
        _check(key, value, MAX_DEPTH)
        return value
    kind = value.get("as")
    items, at, size = (number if type(number := value.get(name)) is int else -1 for name in ("items", "at", "bytes"))
    if min(items, at, size) < 0 or at + size > len(blob):
        raise ValueError(f"{key!r:.100} lies at {value!r:.200}, outside the {len(blob)} bytes there are")
    data = blob[at : at + size]
    if kind == "text":
        texts = data.decode().split("\0") if items else []
        if len(texts) != items:
            raise ValueError(f"{key!r:.100} has {len(texts)} strings instead of {items}")
        return texts
    if kind not in _TYPES or np.dtype(kind).itemsize * items != size:
        raise ValueError(f"{key!r:.100} is {items} items of type {kind!r:.20} in {size} bytes")
    array = np.frombuffer(data, dtype=kind)
    if kind == "|b1" and (array.view(np.uint8) > 1).any():
        raise ValueError(f"{key!r:.100} holds a truth value that is neither 0 nor 1")
    return array


def _check(key: str, value: Any, depth: int) -> None:
    """A value that a GGUF file could have, too."""
    if isinstance(value, list) and depth:
        for item in value:
            _check(key, item, depth - 1)
    elif not isinstance(value, str | float | int) or (isinstance(value, int) and not -_LIMIT < value < _LIMIT):
        raise ValueError(f"{key!r:.100} is {value!r:.100}, which no model file has")
