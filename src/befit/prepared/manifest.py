"""`befit-build.json`: what a built folder says of itself and of the file that it was built from."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from befit.backends.cuda.arrays import LAYOUT
from befit.errors import BuildMismatch
from befit.store.layout import BUILD_MANIFEST

FORMAT = "befit build"
VERSION = 1
"""Of the folder's files and their meanings; the packed tiles have a version of their own."""

METADATA, ARRAYS, PROGRAM, TENSORS, WEIGHTS = (
    "metadata.json",
    "metadata.bin",
    "program.json",
    "tensors.json",
    "weights.bin",
)
SMALL_FILES = (METADATA, ARRAYS, PROGRAM, TENSORS)
FILES = (*SMALL_FILES, WEIGHTS)

MAX_MANIFEST_BYTES = 1 << 20
MAX_SMALL_BYTES = 1 << 28
"""Small files are read whole. Twice the largest vocabularies take a tenth of this."""

_SAMPLES, _SAMPLE_BYTES = 64, 4096


@dataclass(frozen=True, slots=True)
class FileFacts:
    """Bytes and SHA-256 of a file of the folder."""

    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A GGUF file as it was when it was built from.

    sample: SHA-256 over 64 pieces of 4 KiB spread evenly. When the time of change is another, size and sample say
    whether the content is; reading all of the file would take longer than loading it.
    """

    path: str
    size: int
    mtime_ns: int
    sha256: str
    sample: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """name: what clients call the model. source: the GGUF file, or all its parts.

    backend: "native" or "cuda", the one that the weights are packed for; native, the default, is not written.
    packed_layout: the version of how it packs them, see kernels.hpp and backends/cuda/arrays.py.
    quantised: what `befit quantize` made of the source, its target and block format with a slash between; empty where
    tensors were taken as they are.
    """

    name: str
    befit: str
    packed_layout: int
    built_at: str
    source: tuple[SourceFile, ...]
    files: dict[str, FileFacts]
    byte_order: str = sys.byteorder
    quantised: str = ""
    backend: str = "native"

    def to_json(self) -> bytes:
        """The file's content; `sha256` in it is that of all the rest."""
        fields = {"format": FORMAT, "version": VERSION, **asdict(self)}
        if self.backend == "native":
            del fields["backend"]
        return json.dumps({**fields, "sha256": _digest(fields)}, indent=2).encode() + b"\n"


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a built folder. Raises BuildMismatch when there is none that this befit can read."""
    path = folder / BUILD_MANIFEST
    data = read_small(path, MAX_MANIFEST_BYTES)
    try:
        fields = json.loads(data)
        if fields["format"] != FORMAT:
            raise ValueError(f"its format is {fields['format']!r}")
        digest, version = fields.pop("sha256"), fields.pop("version")
    except (ValueError, KeyError, TypeError, RecursionError, AttributeError) as error:
        raise BuildMismatch(f"{path} is no manifest of a befit build: {type(error).__name__}: {error}") from error
    source = _first_source(fields)
    if version != VERSION:
        raise BuildMismatch(f"{folder} has build format {version!r:.20}; this befit reads {VERSION}", source)
    if digest != _digest({"version": version, **fields}):
        raise BuildMismatch(f"{path} was changed: its content does not have the SHA-256 that it names", source)
    try:
        return _parse(fields)
    except (KeyError, TypeError, ValueError) as error:
        raise BuildMismatch(f"{path} lacks something: {type(error).__name__}: {error}", source) from error


def _parse(fields: dict[str, Any]) -> Manifest:
    """The manifest of checked types; raises KeyError, TypeError or ValueError."""
    sources = tuple(
        SourceFile(
            _text(each["path"]),
            _count(each["size"]),
            _count(each["mtime_ns"]),
            _text(each["sha256"]),
            _text(each["sample"]),
        )
        for each in fields["source"]
    )
    if not sources:
        raise ValueError("no source file is named")
    files = {
        name: FileFacts(_count(fields["files"][name]["size"]), _text(fields["files"][name]["sha256"])) for name in FILES
    }
    return Manifest(
        name=_text(fields["name"]),
        befit=_text(fields["befit"]),
        packed_layout=_count(fields["packed_layout"]),
        built_at=_text(fields["built_at"]),
        source=sources,
        files=files,
        byte_order=_text(fields["byte_order"]),
        quantised=_text(fields.get("quantised", "")),
        backend=_text(fields.get("backend", "native")),
    )


def layout_of(backend: str) -> int | None:
    """The version of how this befit packs weights for a backend; None for one that it does not pack for."""
    if backend == "native":
        from befit.backends.native import _native

        return _native.packed_layout
    return LAYOUT if backend == "cuda" else None


def read_small(path: Path, limit: int = MAX_SMALL_BYTES) -> bytes:
    """A regular file of at most `limit` bytes, whole. Raises BuildMismatch."""
    try:
        # Non-blocking, because opening a pipe would otherwise wait for someone to write to it.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise BuildMismatch(f"{path} is not a regular file")
            if status.st_size > limit:
                raise BuildMismatch(f"{path} has {status.st_size:,} bytes; at most {limit:,} make sense")
            return file.read(limit)
    except OSError as error:
        raise BuildMismatch(f"{path} cannot be read: {error.strerror}") from error


def describe_source(path: Path) -> SourceFile:
    """The facts of a source file, its whole SHA-256 among them."""
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        status = os.fstat(file.fileno())
        return SourceFile(str(path), status.st_size, status.st_mtime_ns, digest, _sample(file.fileno(), status.st_size))


def has_changed(source: SourceFile) -> bool:
    """Whether the file is there and is not what was built from. A file that is gone has not changed."""
    try:
        descriptor = os.open(source.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError):
        return False
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size != source.size:
            return True
        return status.st_mtime_ns != source.mtime_ns and _sample(descriptor, source.size) != source.sample
    finally:
        os.close(descriptor)


def _sample(descriptor: int, size: int) -> str:
    digest = hashlib.sha256()
    last = max(0, size - _SAMPLE_BYTES)
    for i in range(_SAMPLES):
        digest.update(os.pread(descriptor, _SAMPLE_BYTES, last * i // (_SAMPLES - 1)))
    return digest.hexdigest()


def _digest(fields: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def _first_source(fields: dict[str, Any]) -> str | None:
    if fields.get("quantised"):  # building it anew from there would make something else
        return None
    try:
        path = fields["source"][0]["path"]
    except (KeyError, TypeError, IndexError):
        return None
    return path if isinstance(path, str) and "\0" not in path else None


def _text(value: Any) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise TypeError(f"{value!r:.100} is not a text")
    return value


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise TypeError(f"{value!r:.100} is not a number from 0")
    return value
