"""Fetch a model from the hub into the hub's own cache, so that every tool on this machine finds it there.

Asked first, in this order: is it there already, does it fit this machine (the caller's `admit`), has the disk room.
Then file by file, under the lock that the hub's tools use, in the layout that they share (see `hub_cache.py`).
"""

from __future__ import annotations

import os
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from befit.errors import DownloadError
from befit.store import choice, hub, hub_cache, transfer
from befit.store.hub import Listing, RemoteFile
from befit.store.lock import alone
from befit.store.repository import Repository

MARGIN = 64 << 20
"""Bytes of disk that a download leaves free."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is about to be fetched: the repository at a commit with `file` set to the first file, and all the files."""

    repository: Repository
    files: tuple[RemoteFile, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size or 0 for file in self.files)


Admit = Callable[[Wanted], None]
"""Raises when a model should not be fetched."""


Watch = Callable[[str, int, int], None]
"""Told, as a download goes on, the digest of a file, its size and how many bytes have come. What it raises ends the
download; what has come stays for the next time."""


def pull(
    repository: Repository, name: str, progress: bool = True, admit: Admit | None = None, watch: Watch | None = None
) -> Path:
    """Make sure that the model is in the hub's cache and whole, and return the path to open.

    Files that are there are compared with their digests. `admit` is asked before anything is fetched. Raises
    ModelNotFound, DownloadError, and what `admit` raises.
    """
    try:
        return _pull(repository, name, progress, admit, watch)
    except transfer.Changed:  # the branch moved on between listing and fetching: once more, from a new listing
        return _pull(repository, name, progress, admit, watch)


def _pull(repository: Repository, name: str, progress: bool, admit: Admit | None, watch: Watch | None) -> Path:
    listing = transfer.patiently(lambda: hub.list_files(repository))
    paths = choice.choose(list(listing.files), repository.file, repository.name)
    if choice.INDEX in paths:
        index = hub.parse_json(hub.read_file(listing.pinned, choice.INDEX)[0], choice.INDEX)
        paths = choice.indexed(paths, index, repository.name)
    listing, files = _described(listing, [listing.files[path] for path in paths])
    wanted = Wanted(replace(listing.pinned, file=paths[0] if paths[0].lower().endswith(".gguf") else None), files)
    missing = [file for file in files if not _is_there(listing, file)]
    if missing:
        if admit is not None:
            admit(wanted)
        _check_room(listing, missing, name)
    with _bar(f"{'Fetching' if missing else 'Checking'} {name}", wanted.size, progress, watch) as bar:
        for file in files:
            _bring(listing, file, bar, progress)
    _note_revision(listing)
    found = hub_cache.find(replace(wanted.repository, revision=listing.repository.revision))
    if found is None:
        raise DownloadError(f"{name} is not in {hub_cache.place(repository)} although it was fetched; run it again.")
    return found.path


def _described(listing: Listing, files: list[RemoteFile]) -> tuple[Listing, tuple[RemoteFile, ...]]:
    """The files with their sizes and digests, asked one by one where the listing leaves them out."""
    known: list[RemoteFile] = []
    for file in files:
        if file.size is None or file.digest is None or listing.commit is None:
            file, commit = hub.describe_file(listing.pinned, file.path)
            listing = replace(listing, commit=listing.commit or commit)
        if file.size is None or file.digest is None or listing.commit is None:
            raise DownloadError(
                f"{listing.repository.url(file.path)}: the server does not say size, digest and commit of it, so a "
                "download could not be checked; set HF_ENDPOINT to a hub that does."
            )
        known.append(file)
    return listing, tuple(known)


def _blob(listing: Listing, file: RemoteFile) -> Path:
    return hub_cache.place(listing.repository) / "blobs" / str(file.digest)


def _unfinished(listing: Listing, file: RemoteFile) -> Path:
    return _blob(listing, file).with_suffix(".befit.incomplete")


def _pointer(listing: Listing, file: RemoteFile) -> Path:
    return hub_cache.place(listing.repository) / "snapshots" / str(listing.commit) / file.path


def _is_there(listing: Listing, file: RemoteFile) -> bool:
    for place in (_pointer(listing, file), _blob(listing, file)):
        if place.is_file() and place.stat().st_size == file.size:
            return True
    return False


def _check_room(listing: Listing, missing: list[RemoteFile], name: str) -> None:
    needed = sum((file.size or 0) - _length(_unfinished(listing, file)) for file in missing)
    place = hub_cache.place(listing.repository)
    at = next(parent for parent in (place, *place.parents) if parent.is_dir())
    free = shutil.disk_usage(at).free
    if free < needed + MARGIN:
        raise DownloadError(
            f"fetching {name} takes {needed / 1e6:,.0f} MB of disk and {at} has {free / 1e6:,.0f} MB free. Make room "
            "(befit du shows what models take), or set HF_HOME to a folder on another disk."
        )


def _length(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _bring(listing: Listing, file: RemoteFile, bar: _Bar, progress: bool) -> None:
    """One file: compared if it is there, else fetched and linked."""
    lock = hub_cache.folder() / ".locks" / hub_cache.place(listing.repository).name / f"{file.digest}.lock"
    blob, pointer, unfinished = _blob(listing, file), _pointer(listing, file), _unfinished(listing, file)
    bar.begin(file)

    def waiting() -> None:
        if progress:
            print(f"Another process is fetching {file.path}; waiting for it.", file=sys.stderr, flush=True)

    with alone(lock, waiting):
        there = next((place for place in (pointer, blob) if place.is_file()), None)
        if there is not None and transfer.is_whole(there, file):
            bar.was_here(file.size or 0)
        else:
            for damaged in (pointer, blob):
                damaged.unlink(missing_ok=True)
            bar.was_here(_length(unfinished))
            transfer.fetch(listing.pinned, file, unfinished, blob, bar.came)
        if not pointer.exists():
            _link(blob, pointer)


def _link(blob: Path, pointer: Path) -> None:
    """Give the blob its name in the snapshot, as the hub's client does: on a disk without links it moves there."""
    pointer.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.symlink(os.path.relpath(blob, pointer.parent), pointer)
    except PermissionError:
        os.replace(blob, pointer)


def _note_revision(listing: Listing) -> None:
    """Write down which commit the branch meant, so that it is found without asking."""
    revision, commit = listing.repository.revision, listing.commit or ""
    ref = hub_cache.place(listing.repository) / "refs" / revision
    if revision == commit or (ref.is_file() and ref.read_text(encoding="utf-8") == commit):
        return
    ref.parent.mkdir(parents=True, exist_ok=True)
    fresh = ref.with_name(f"{ref.name}.{secrets.token_hex(4)}.tmp")
    fresh.write_text(commit, encoding="utf-8")
    os.replace(fresh, ref)


@dataclass(slots=True)
class _Bar:
    """How far a pull is: bytes that came, and bytes that were here and say nothing of the speed."""

    bar: Any
    watch: Watch | None
    file: RemoteFile | None = None
    there: int = 0

    def begin(self, file: RemoteFile) -> None:
        self.file, self.there = file, 0

    def came(self, count: int) -> None:
        self._tell(count)
        self.bar.update(count)

    def was_here(self, count: int) -> None:
        self._tell(count)
        if not self.bar.disable:
            self.bar.initial += count
            self.bar.update(count)

    def _tell(self, count: int) -> None:
        self.there += count
        if self.watch is not None and self.file is not None:
            self.watch(str(self.file.digest), self.file.size or 0, self.there)


@contextmanager
def _bar(what: str, total: int, progress: bool, watch: Watch | None) -> Iterator[_Bar]:
    from tqdm import tqdm  # type: ignore[import-untyped]

    often = 0.1 if sys.stderr.isatty() else 5.0
    with tqdm(total=total, desc=what, unit="B", unit_scale=True, disable=not progress, mininterval=often) as bar:
        yield _Bar(bar, watch)
