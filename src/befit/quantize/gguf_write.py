"""Writing GGUF, version 3: header, metadata, and tensors one at a time.

The layout is that of `weights.gguf_part`. Python's values do not say which of GGUF's number types they were, and
readers insist on some: integers become uint32 where they fit, then int32, uint64 or int64; floats become float32, or
float64 where they are too large for that; NumPy arrays keep their type.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from befit.weights.ggml_types import TYPES, GgmlType
from befit.weights.tensor import QuantTensor, Tensor

ALIGNMENT = 32
VERSION = 3

_BOOL, _STRING, _ARRAY, _F32, _F64 = 7, 8, 9, 6, 12
_INTEGERS = ((4, "I", 0, 2**32), (5, "i", -(2**31), 2**31), (10, "Q", 0, 2**64), (11, "q", -(2**63), 2**63))
_KINDS = {"u1": 0, "i1": 1, "u2": 2, "i2": 3, "u4": 4, "i4": 5, "f4": 6, "b1": 7, "u8": 10, "i8": 11, "f8": 12}
_LARGEST_F32 = float(np.finfo(np.float32).max)
_PIECE = 1 << 24

_NOT_COPIED = ("general.alignment", "split.")
"""Metadata of the source file's own layout."""


def write_gguf(
    path: Path,
    metadata: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    on_bytes: Callable[[int], None] = lambda done: None,
) -> int:
    """Write the file, forced to disk, and return its size. on_bytes gets the bytes of tensors written so far.

    Raises FileExistsError when something is at `path`, OSError when writing fails, ValueError or TypeError for metadata
    that GGUF cannot hold.
    """
    header, offsets = _header(metadata, tensors)
    with open(path, "xb") as file:
        file.write(header)
        start, done = len(header), 0
        for name, tensor in tensors.items():
            file.seek(start + offsets[name])
            done += _write(file, tensor)
            on_bytes(done)
        file.write(bytes(-file.tell() % ALIGNMENT))
        file.flush()
        os.fsync(file.fileno())
        return file.tell()


def tensor_bytes(tensors: Mapping[str, Tensor]) -> int:
    """Bytes of all tensors, padding included."""
    return sum(_aligned(tensor.nbytes) for tensor in tensors.values())


def ggml_type(tensor: Tensor) -> GgmlType:
    """The GGML type that a tensor has in a file."""
    wanted = tensor.format if isinstance(tensor, QuantTensor) else tensor.dtype
    return next(kind for kind in TYPES.values() if kind.reads_as == wanted)


def _header(metadata: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> tuple[bytes, dict[str, int]]:
    """Everything before the tensors' data, padded, and where in that data each tensor begins."""
    kept = [key for key in metadata if not key.startswith(_NOT_COPIED)]
    out = bytearray(b"GGUF" + struct.pack("<IQQ", VERSION, len(tensors), len(kept)))
    for key in kept:
        out += _text(key)
        try:
            out += _value(metadata[key])
        except (TypeError, ValueError) as error:
            raise type(error)(f"metadata key {key!r}: {error}") from error
    offsets: dict[str, int] = {}
    at = 0
    for name, tensor in tensors.items():
        offsets[name] = at
        dims = tensor.shape[::-1]
        out += _text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, ggml_type(tensor).id, at)
        at += _aligned(tensor.nbytes)
    return bytes(out) + bytes(-len(out) % ALIGNMENT), offsets


def _write(file: BinaryIO, tensor: Tensor) -> int:
    """The tensor's bytes; how many they are."""
    plain = tensor.raw if isinstance(tensor, QuantTensor) else np.ascontiguousarray(tensor.data)
    raw = plain.view(np.uint8).reshape(-1)
    if raw.nbytes != tensor.nbytes:
        raise ValueError(f"tensor {tensor.name} has {raw.nbytes} bytes instead of {tensor.nbytes}")
    for start in range(0, raw.nbytes, _PIECE):
        file.write(raw[start : start + _PIECE].data)
    return _aligned(raw.nbytes)


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _value(value: Any) -> bytes:
    """Type and value, as they follow a key."""
    kind, data = _typed(value)
    return struct.pack("<I", kind) + data


def _typed(value: Any) -> tuple[int, bytes]:
    match value:
        case np.ndarray() | list() | tuple():
            return _ARRAY, _array(value)
        case np.generic():
            return _KINDS[value.dtype.str[1:]], value.astype(value.dtype.newbyteorder("<")).tobytes()
        case bool():
            return _BOOL, bytes([value])
        case str():
            return _STRING, _text(value)
        case int():
            for kind, code, low, high in _INTEGERS:
                if low <= value < high:
                    return kind, struct.pack("<" + code, value)
            raise ValueError(f"{value} does not fit 64 bits")
        case float():
            return _float(value)
    raise TypeError(f"a value of type {type(value).__name__}, which GGUF has no place for")


def _float(value: float) -> tuple[int, bytes]:
    if math.isfinite(value) and abs(value) > _LARGEST_F32:
        return _F64, struct.pack("<d", value)
    return _F32, struct.pack("<f", value)


def _array(values: Any) -> bytes:
    """Element type, count and elements."""
    if isinstance(values, np.ndarray):
        if values.ndim != 1:
            raise ValueError(f"an array of {values.ndim} dimensions; GGUF has lists")
        kind = _KINDS[values.dtype.str[1:]]
        return struct.pack("<IQ", kind, prod(values.shape)) + values.astype(values.dtype.newbyteorder("<")).tobytes()
    if all(isinstance(value, str) for value in values):
        return struct.pack("<IQ", _STRING, len(values)) + b"".join(map(_text, values))
    if all(isinstance(value, list | tuple | np.ndarray) for value in values):
        return struct.pack("<IQ", _ARRAY, len(values)) + b"".join(map(_array, values))
    if all(isinstance(value, bool) for value in values):
        return _array(np.array(values, np.bool_))
    if all(isinstance(value, int) for value in values):
        small = all(-(2**31) <= value < 2**31 for value in values)
        return _array(np.array(values, np.int32 if small else np.int64))
    return _array(np.array(values, np.float32))
