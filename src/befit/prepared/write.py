"""`befit build`: a model repacked into a folder, written whole or not at all."""

from __future__ import annotations

import fcntl
import glob
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path

import numpy as np
import numpy.typing as npt

import befit
from befit import disk, models, tokenizer
from befit.backends.cuda.arrays import form_of, make_arrays
from befit.errors import ConfigError, DoesNotFit
from befit.models.program import Program
from befit.prepared import metadata as codec
from befit.prepared.bar import bar
from befit.prepared.manifest import (
    ARRAYS,
    FILES,
    METADATA,
    PROGRAM,
    TENSORS,
    WEIGHTS,
    FileFacts,
    Manifest,
    describe_source,
    layout_of,
)
from befit.prepared.plan import PLAIN, Section, Target, card_matrices, plan, program_json, sections_json
from befit.prepared.read import open_build
from befit.store.layout import BUILD_MANIFEST
from befit.weights.checkpoint import Checkpoint, open_checkpoint
from befit.weights.tensor import U8, QuantTensor, Tensor

_PIECE = 1 << 24


def build(
    source: Path,
    target: Path,
    *,
    name: str,
    threads: int,
    force: bool = False,
    progress: bool = False,
    backend: Target = "native",
) -> Manifest:
    """Write the built folder of `source`, a GGUF file or a Hugging Face folder, at `target`.

    name: what clients will call the model. backend: the one that is to load it. force: replace a built folder that is
    there; anything else that is there is never touched. progress draws a bar on standard error. The folder appears with
    one rename, complete and on disk; until then it has a hidden name beside its place.

    Raises ConfigError when something is in the way, DoesNotFit for lack of disk, the errors of opening a model, and
    OSError when writing fails.
    """
    check_target(target.expanduser().resolve(), force=force)
    with open_checkpoint(source) as file:
        return build_from(file, target, name=name, threads=threads, force=force, progress=progress, backend=backend)


def build_from(
    file: Checkpoint,
    target: Path,
    *,
    name: str,
    threads: int,
    force: bool = False,
    progress: bool = False,
    quantised: str = "",
    backend: Target = "native",
) -> Manifest:
    """`build` from an open model. quantised: how its tensors differ from those in its files, see `Manifest`."""
    target = target.expanduser().resolve()
    check_target(target, force=force)
    program = models.describe(file.metadata, file.shapes, lambda key: file.tensors[key].dequantize())
    file.check()
    tokenizer.load(file.metadata)  # a model that cannot be served should not be built
    matrices = card_matrices(program) if backend == "cuda" else {}
    formats = {
        key: ((form_of if key in matrices else _format)(tensor), tensor.shape) for key, tensor in file.tensors.items()
    }
    sections, total = plan(program, formats, backend)
    layout = layout_of(backend)
    assert layout is not None
    small = _small_files(file, program, sections)
    target.parent.mkdir(parents=True, exist_ok=True)
    needed = total + sum(map(len, small.values()))
    _check_space(target.parent, needed)
    with (
        disk.room(f"The built folder {target.name}", target.parent, needed),
        workshop(target) as work,
        ThreadPoolExecutor(1, thread_name_prefix="befit-hash") as pool,
    ):
        hashing = pool.submit(lambda: tuple(describe_source(path.absolute()) for path in file.paths))
        facts = {key: _write(work / key, [data], None) for key, data in small.items()}
        pieces = _weights(file, sections, total, threads)
        with bar(f"Building {name}", total, progress) as show:
            facts[WEIGHTS] = _write(work / WEIGHTS, pieces, show)
        manifest = Manifest(
            name=name,
            befit=befit.__version__,
            packed_layout=layout,
            built_at=datetime.now(UTC).isoformat(timespec="seconds"),
            source=hashing.result(),
            files={key: facts[key] for key in FILES},
            quantised=quantised,
            backend=backend,
        )
        _write(work / BUILD_MANIFEST, [manifest.to_json()], None)
        open_build(work).close()  # what loading would refuse is not put in place
        check_target(target, force=force)
        _install(work, target)
    return manifest


def check_target(target: Path, *, force: bool) -> None:
    """Raise ConfigError unless `target` is free to be written, or is a built folder and may be replaced."""
    if not os.path.lexists(target):
        return
    if not target.is_dir():
        raise ConfigError(f"{target} is there and is no folder; name another with -o.")
    there = {entry.name for entry in target.iterdir()}
    if not there:
        return
    strange = sorted(there - {BUILD_MANIFEST, *FILES})
    if BUILD_MANIFEST not in there or strange:
        example = f" It holds {strange[0]!r}." if strange else ""
        raise ConfigError(
            f"{target} is not empty and not a befit build, so it is left alone.{example} Name another with -o."
        )
    if not force:
        raise ConfigError(f"{target} is a befit build already; --force replaces it.")


def _format(tensor: Tensor) -> str:
    return tensor.format.name if isinstance(tensor, QuantTensor) else tensor.dtype


def _small_files(file: Checkpoint, program: Program, sections: list[Section]) -> dict[str, bytes]:
    text, blob = codec.encode(file.metadata)
    return {METADATA: text, ARRAYS: blob, PROGRAM: program_json(program), TENSORS: sections_json(sections)}


def _weights(file: Checkpoint, sections: list[Section], total: int, threads: int) -> Iterator[memoryview]:
    """The content of `weights.bin`, in pieces."""
    at = 0
    for name, some in groupby(sections, key=lambda section: section.name):
        tensor = file.tensors[name]
        for section, content in _contents(tensor, list(some), threads):
            yield memoryview(bytes(section.offset - at))
            for start in range(0, content.nbytes, _PIECE):
                yield content[start : start + _PIECE].data
            at = section.offset + section.nbytes
        file.release(tensor)
    yield memoryview(bytes(total - at))


def _contents(tensor: Tensor, sections: list[Section], threads: int) -> Iterator[tuple[Section, U8]]:
    """What lies in each section of a tensor."""
    from befit.backends.native import _native

    made = {} if sections[0].role in (*PLAIN, "matrix") else make_arrays(tensor)
    for section in sections:
        part = made[section.role] if made else _plain(tensor)
        content: U8 = np.ascontiguousarray(part).view(np.uint8).reshape(-1)
        if section.role == "matrix":
            content = _native.pack(content, section.shape[0], section.shape[1], section.format, threads)
        yield section, content


def _plain(tensor: Tensor) -> npt.NDArray[np.generic]:
    return tensor.raw if isinstance(tensor, QuantTensor) else tensor.data


def _write(path: Path, pieces: Iterable[bytes | memoryview], on_bytes: Callable[[int], None] | None) -> FileFacts:
    """Write a file, force it to disk, and say what was written."""
    digest, size = hashlib.sha256(), 0
    with open(path, "xb") as out:
        for piece in pieces:
            digest.update(piece)
            out.write(piece)
            size += len(piece)
            if on_bytes:
                on_bytes(size)
        out.flush()
        os.fsync(out.fileno())
    return FileFacts(size, digest.hexdigest())


def _check_space(parent: Path, needed: int) -> None:
    free = shutil.disk_usage(parent).free
    if free < needed:
        raise DoesNotFit(
            f"The built folder takes {needed / 1e6:,.0f} MB and {parent} has {free / 1e6:,.0f} MB free "
            f"({needed:,} and {free:,} bytes). Make room, or name a folder on another disk with -o."
        )


@contextmanager
def workshop(target: Path) -> Iterator[Path]:
    """A hidden folder beside the target that is removed at the end; those that killed processes left are, too.

    Whoever works in one holds a lock on it, so a lock that can be had says that nobody does.
    """
    for stale in target.parent.glob(f".{glob.escape(target.name)}.*.partial"):
        with _locked(stale) as mine:
            if mine:
                shutil.rmtree(stale, ignore_errors=True)
    work = target.parent / f".{target.name}.{os.getpid()}.partial"
    work.mkdir()
    with _locked(work):
        try:
            yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Hold the folder's lock; False when another process does."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:  # gone meanwhile
        yield False
        return
    try:
        yield _try_lock(descriptor)
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # held by another, or a file system without locks
        return False
    return True


def _install(work: Path, target: Path) -> None:
    """Move the finished folder into place; a build that is there makes room, and comes back should that fail."""
    old = target.with_name(f".{target.name}.{os.getpid()}.old.partial")
    replaced = target.is_dir() and any(target.iterdir())
    _sync(work)
    if replaced:
        os.rename(target, old)
    try:
        os.rename(work, target)
    except OSError:
        if replaced:
            os.rename(old, target)
        raise
    _sync(target.parent)
    if replaced:
        shutil.rmtree(old, ignore_errors=True)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
