"""One GGUF file: mapped, its header read and every tensor placed inside the file.

    magic "GGUF" | version u32 | tensor count u64 | key count u64
    keys:     (name, type u32, value) …
    tensors:  (name, dimensions u32, that many u64 with the columns first, type u32, offset u64) …
    padding to `general.alignment` | tensor data, at those offsets

Source: the GGUF specification (ggml, `docs/gguf.md`).
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from pathlib import Path

import numpy as np

from befit.errors import CorruptFile, UnsupportedModel
from befit.weights.ggml_types import GgmlType, by_id
from befit.weights.gguf_header import MAX_KEYS, Cursor, Metadata, quote
from befit.weights.mapped import map_file
from befit.weights.sniff import HEAD_BYTES, looks_like
from befit.weights.tensor import U8

MAX_TENSORS = 1 << 18
MAX_DIMENSIONS = 4
DEFAULT_ALIGNMENT = 32


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """What the header says of a tensor.

    shape: rows first. start: its first byte in its file. nbytes: 0 when befit does not know the type's size.
    """

    name: str
    shape: tuple[int, ...]
    type: GgmlType
    start: int
    nbytes: int


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """A mapped file; `bytes` is uint8 over all of it."""

    path: Path
    map: mmap.mmap
    bytes: U8
    metadata: Metadata
    infos: dict[str, TensorInfo]


def read_part(path: Path) -> Part:
    """Map a file and read its header, checking all of it.

    Raises ModelNotFound, ModelError (not readable), CorruptFile or UnsupportedModel (version or byte order).
    """
    data = map_file(path)
    cursor = Cursor(path, data)
    _check_magic(cursor)
    n_tensors = cursor.count(32, MAX_TENSORS, "tensors")
    n_keys = cursor.count(13, MAX_KEYS, "metadata keys")
    metadata = Metadata(cursor, n_keys)
    alignment = metadata.number("general.alignment", default=DEFAULT_ALIGNMENT)
    if alignment < 8 or alignment & (alignment - 1):
        raise CorruptFile(
            f"{path}: metadata key 'general.alignment' is {alignment}, where GGUF allows powers of two from 8; "
            "the file is damaged, fetch it again"
        )
    infos = _read_infos(cursor, n_tensors, alignment)
    return Part(path, data, np.frombuffer(data, dtype=np.uint8), metadata, infos)


def _check_magic(cursor: Cursor) -> None:
    """Step over magic and version, or say what the file is instead."""
    head = cursor.data[:HEAD_BYTES]
    if head[:4] != b"GGUF":
        meaning = looks_like(head)
        reason = f"it looks like {meaning}" if meaning else f"it begins with {head[:4]!r}, a GGUF file with b'GGUF'"
        raise CorruptFile(f"{cursor.path}: not a GGUF file: {reason}")
    cursor.take(4)
    version = cursor.u32()
    if version in (2, 3):
        return
    if version & 0xFFFF == 0 and version:
        problem = "is big-endian; befit reads little-endian GGUF"
    else:
        problem = f"has GGUF version {version}; befit reads versions 2 and 3"
    raise UnsupportedModel(
        f"{cursor.path}: the file {problem}; convert the original model again, or fetch another file"
    )


def _read_infos(cursor: Cursor, count: int, alignment: int) -> dict[str, TensorInfo]:
    """The tensors' headers at the cursor, with every tensor's place in the file checked."""
    headers: dict[str, tuple[tuple[int, ...], GgmlType, int]] = {}
    for index in range(count):
        cursor.what = f"tensor header {index + 1} of {count}"
        start = cursor.position
        name = cursor.name()
        cursor.what = f"tensor {quote(name)}"
        if name in headers:
            cursor.fail("the tensor is there twice", start)
        n_dims = cursor.u32()
        if not 1 <= n_dims <= MAX_DIMENSIONS:
            cursor.fail(f"{n_dims} dimensions, where GGUF allows 1 to {MAX_DIMENSIONS}", cursor.position - 4)
        dims = tuple(cursor.u64() for _ in range(n_dims))
        if 0 in dims:
            cursor.fail(f"dimensions {list(dims)}, one of which is 0", cursor.position - 8 * n_dims)
        headers[name] = dims[::-1], by_id(cursor.u32()), cursor.u64()
    data_start = -(-cursor.position // alignment) * alignment
    infos = {name: _place(cursor, name, header, data_start, alignment) for name, header in headers.items()}
    _check_overlaps(cursor, infos.values())
    return infos


def _place(
    cursor: Cursor, name: str, header: tuple[tuple[int, ...], GgmlType, int], data_start: int, alignment: int
) -> TensorInfo:
    """Where a tensor lies, checked against its shape, its alignment and the file."""
    shape, kind, offset = header
    cursor.what = f"tensor {quote(name)}"
    start = data_start + offset
    if offset % alignment:
        cursor.fail(f"offset {offset} is not a multiple of the alignment {alignment}", start)
    if kind.block and shape[-1] % kind.block:
        cursor.fail(f"{shape[-1]} columns, which is not a multiple of {kind.name}'s block of {kind.block}", start)
    nbytes = prod(shape) // kind.block * kind.block_bytes if kind.block else 0
    if start + max(nbytes, 1) > cursor.size:
        cursor.fail(f"shape {list(shape)} of type {kind.name} would end at byte {start + nbytes}, past the end", start)
    return TensorInfo(name, shape, kind, start, nbytes)


def _check_overlaps(cursor: Cursor, infos: Iterable[TensorInfo]) -> None:
    """No two tensors may share bytes."""
    by_start = sorted(infos, key=lambda info: info.start)
    for before, after in pairwise(by_start):
        # A tensor of unknown size takes at least its first byte.
        if before.start + max(before.nbytes, 1) > after.start:
            cursor.what = f"tensor {quote(after.name)}"
            cursor.fail(
                f"overlaps tensor {quote(before.name)}, bytes {before.start} to {before.start + before.nbytes}",
                after.start,
            )
