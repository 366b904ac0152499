"""Opening a built folder: everything small is read and checked, everything large is found but not read."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import stat
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np

from befit import models
from befit.backends.cuda.arrays import DENSE
from befit.errors import BefitError, BuildMismatch
from befit.models.program import Program
from befit.prepared import metadata as codec
from befit.prepared.bar import bar
from befit.prepared.manifest import (
    ARRAYS,
    FORMAT,
    METADATA,
    PROGRAM,
    SMALL_FILES,
    TENSORS,
    WEIGHTS,
    Manifest,
    has_changed,
    layout_of,
    read_manifest,
    read_small,
)
from befit.prepared.plan import (
    PLAIN,
    ROLES,
    Section,
    Target,
    plan,
    program_json,
    section_bytes,
    sections_json,
)
from befit.weights.blocks import ALL_FORMATS
from befit.weights.tensor import F32, U8, DenseTensor, PackedTensor, QuantTensor, Tensor, Weight


class Build:
    """An open built folder. `weights` has every tensor that the program names; see `PackedTensor`.

    sections: what lies where in `weights.bin`, of `weight_bytes` bytes. size: bytes of the whole folder.

    Should another process shorten `weights.bin` while it is open, looking up a row in the missing part ends this
    process (SIGBUS): replace a folder with `befit build --force`, which renames a new one into its place.
    """

    def __init__(
        self,
        path: Path,
        manifest: Manifest,
        metadata: Mapping[str, Any],
        program: Program,
        sections: list[Section],
        file: _Weights,
    ) -> None:
        self.path = path
        self.manifest = manifest
        self.metadata = metadata
        self.program = program
        self.sections = sections
        self.weight_bytes = manifest.files[WEIGHTS].size
        self.size = sum(facts.size for facts in manifest.files.values())
        self._file = file
        plain = {s.name: file.plain(s) for s in sections if s.role in PLAIN}
        packed: dict[str, list[Section]] = {}
        for section in sections:
            if section.role not in PLAIN:
                packed.setdefault(section.name, []).append(section)
        self.weights: Mapping[str, Weight] = plain | {
            name: PackedTensor(
                name=name,
                shape=(some[0].shape[0], some[0].shape[1]),
                format=some[0].format,
                quantised=some[0].format not in DENSE,
                file=file.descriptor,
                offset=some[0].offset,
                nbytes=sum(section.nbytes for section in some),
                table=plain.get(name),
                backend=manifest.backend,
                parts={} if manifest.backend == "native" else {section.role: section.offset for section in some},
            )
            for name, some in packed.items()
        }

    def close(self) -> None:
        """Let go of the files. Tables stay valid: they keep their file mapped for as long as they live."""
        self._file.close()


class _Weights:
    """`weights.bin`: open for reading matrices, mapped for the rest."""

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(self.descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise BuildMismatch(f"{path} is not a regular file")
            self.size = status.st_size
            self._map = mmap.mmap(self.descriptor, 0, access=mmap.ACCESS_READ) if self.size else None
        except BaseException:
            os.close(self.descriptor)
            raise
        self._bytes: U8 = np.frombuffer(self._map or b"", dtype=np.uint8)
        self._open = True

    def plain(self, section: Section) -> Tensor:
        """A table or vector; the section must lie inside the file and have the bytes of its format and shape."""
        data = self._bytes[section.offset : section.offset + section.nbytes]
        block = ALL_FORMATS.get(section.format)
        if block is not None:
            rows, columns = section.shape
            return QuantTensor(section.name, (rows, columns), block, data.reshape(rows, -1))
        values = data.view(DENSE[section.format]).reshape(section.shape)
        return DenseTensor(section.name, section.shape, section.format, values)  # type: ignore[arg-type]

    def close(self) -> None:
        if self._open:
            self._open = False
            os.close(self.descriptor)


def open_build(folder: Path, *, backend: str | None = None) -> Build:
    """Open a folder that `befit build` wrote, for that backend or, if it is None, for whichever it was built for.

    Compared are: versions, the source file if it is there (size and time, or a sample of its bytes), size and SHA-256
    of every small file, the size of `weights.bin`, and all that follows from the metadata: the program, and the place
    and size of every tensor. `weights.bin` itself is not read through; `verify` does that.

    Raises BuildMismatch, which names what does not match.
    """
    manifest = read_manifest(folder)
    source = manifest.source[0].path
    try:
        _check_versions(folder, manifest)
        if backend not in (None, manifest.backend):
            raise BuildMismatch(f"{folder} was built for the {manifest.backend} backend, and {backend} is to load it")
        for each in manifest.source:
            if has_changed(each):
                raise BuildMismatch(f"{each.path} has changed since {folder} was built from it")
        small = {name: _checked(folder / name, manifest) for name in SMALL_FILES}
        try:
            file = _Weights(folder / WEIGHTS)
        except OSError as error:
            raise BuildMismatch(f"{folder / WEIGHTS} cannot be read: {error.strerror}") from error
        try:
            return _assemble(folder, manifest, small, file)
        except BaseException:
            file.close()
            raise
    except BuildMismatch as error:
        raise BuildMismatch(error.message, source) from error


def verify(folder: Path, *, progress: bool = False) -> None:
    """Open the folder and read all of it, comparing every SHA-256. Raises BuildMismatch."""
    build = open_build(folder)
    build.close()
    facts, digest, done = build.manifest.files[WEIGHTS], hashlib.sha256(), 0
    with open(folder / WEIGHTS, "rb") as file, bar(f"Reading {folder.name}", facts.size, progress) as show:
        while piece := file.read(1 << 22):
            digest.update(piece)
            done += len(piece)
            show(done)
    if done != facts.size or digest.hexdigest() != facts.sha256:
        raise BuildMismatch(
            f"{folder / WEIGHTS} is damaged: {done:,} bytes with SHA-256 {digest.hexdigest()} instead of "
            f"{facts.size:,} with {facts.sha256}",
            build.manifest.source[0].path,
        )


def _check_versions(folder: Path, manifest: Manifest) -> None:
    layout = layout_of(manifest.backend)
    if layout is None:
        raise BuildMismatch(f"{folder} was built for a backend {manifest.backend!r:.40}, which this befit has not")
    if manifest.packed_layout != layout:
        raise BuildMismatch(
            f"{folder} was built by befit {manifest.befit} with packed layout {manifest.packed_layout}; this befit has "
            f"layout {layout}"
        )
    if manifest.byte_order != sys.byteorder:
        raise BuildMismatch(
            f"{folder} was built on a {manifest.byte_order}-endian machine; this one is {sys.byteorder}-endian"
        )


def _checked(path: Path, manifest: Manifest) -> bytes:
    """A small file, if it is what the manifest says."""
    facts, data = manifest.files[path.name], read_small(path)
    if len(data) != facts.size:
        raise BuildMismatch(f"{path} has {len(data):,} bytes instead of {facts.size:,}")
    if hashlib.sha256(data).hexdigest() != facts.sha256:
        raise BuildMismatch(f"{path} was changed: it does not have the SHA-256 that the {FORMAT} names")
    return data


def _assemble(folder: Path, manifest: Manifest, small: Mapping[str, bytes], file: _Weights) -> Build:
    """Everything derived anew and compared with what the folder says."""
    size = manifest.files[WEIGHTS].size
    if file.size != size:
        raise BuildMismatch(f"{folder / WEIGHTS} has {file.size:,} bytes instead of {size:,}")
    try:
        metadata = codec.decode(small[METADATA], small[ARRAYS])
    except ValueError as error:
        raise BuildMismatch(f"{folder / METADATA} cannot be used: {error}") from error
    target = cast(Target, manifest.backend)  # one that has a layout
    stored = _sections(folder, small[TENSORS], size, ROLES[target])
    tensors = {section.name: (section.format, section.shape) for section in stored}
    vectors = {section.name: section for section in stored if section.role == "vector"}

    def read_vector(name: str) -> F32:
        if name not in vectors:
            raise BuildMismatch(f"{folder / TENSORS} has no vector {name!r:.100}")
        return file.plain(vectors[name]).dequantize()

    try:
        program = models.describe(metadata, {name: shape for name, (_, shape) in tensors.items()}, read_vector)
        sections, end = plan(program, tensors, target)
    except BuildMismatch:
        raise
    except BefitError as error:
        raise BuildMismatch(f"{folder} does not describe a model: {error.message}") from error
    if end != size or sections_json(sections) != small[TENSORS]:
        raise BuildMismatch(
            f"{folder / TENSORS} does not say what this befit works out from the model's description: other tensors, "
            f"or {size:,} bytes of weights instead of {end:,}"
        )
    if program_json(program) != small[PROGRAM]:
        raise BuildMismatch(f"{folder / PROGRAM} is not the program that this befit makes of the model")
    return Build(folder, manifest, metadata, program, sections, file)


def _sections(folder: Path, data: bytes, size: int, roles: tuple[str, ...]) -> list[Section]:
    """The stored sections, each inside the file and as long as its format and shape say."""
    try:
        sections = []
        for fields in json.loads(data):
            section = Section(**{**fields, "shape": tuple(fields["shape"])})
            numbers = (*section.shape, section.offset, section.nbytes)
            texts = (section.name, section.role, section.format)
            if not all(type(number) is int and number >= 0 for number in numbers):
                raise ValueError(f"a number in {fields!r:.200}")
            if not all(type(text) is str for text in texts) or section.role not in roles:
                raise ValueError(f"a name in {fields!r:.200}")
            if section_bytes(section.name, section.role, section.format, section.shape) != section.nbytes:
                raise ValueError(f"the length of {section.name!r:.100}")
            if section.offset + section.nbytes > size:
                raise ValueError(f"the place of {section.name!r:.100}")
            if section.offset % 64:
                raise ValueError(f"the alignment of {section.name!r:.100}")
            sections.append(section)
    except (BefitError, ValueError, TypeError, KeyError, RecursionError) as error:
        text = error.message if isinstance(error, BefitError) else f"{type(error).__name__}: {error}"
        raise BuildMismatch(f"{folder / TENSORS} is wrong: {text}") from error
    return sections
