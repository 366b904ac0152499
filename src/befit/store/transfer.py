"""One file from the hub to the disk: resumed where it stopped, and checked against the digest before it gets its name.

`huggingface_hub` starts a download anew in every process and compares lengths only; so befit moves the bytes itself.
The unfinished file is called after its digest: what is resumed is the same file or none at all.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any, TypeVar

from befit import disk
from befit.errors import DownloadError
from befit.store import hub_http
from befit.store.hub import RemoteFile
from befit.store.repository import Repository

ATTEMPTS = 6
"""Tries that bring no byte, one after another, until it is given up."""
LONGEST_WAIT = 120.0
"""Seconds. A hub that asks for more patience is not waited for."""
_CHUNK = 1 << 20

sleep = time.sleep
log = logging.getLogger("befit.store")
Answered = TypeVar("Answered")


class Changed(DownloadError):
    """The hub has another file under this name than it listed."""


def fetch(
    repository: Repository, file: RemoteFile, unfinished: Path, final: Path, on_bytes: Callable[[int], None]
) -> None:
    """Bring the file to `final`, by way of `unfinished`, which may hold its beginning.

    The file's size and digest are known. `on_bytes` gets the bytes that were added, below 0 when some are given up.
    Raises DownloadError; what has come so far then stays for the next time, unless its digest is wrong.
    """
    unfinished.parent.mkdir(parents=True, exist_ok=True)
    with _disk(unfinished, file), open(unfinished, "ab+", buffering=0) as out:
        begun = out.tell() > 0
        if not _complete(repository, file, out, on_bytes):
            if begun:  # perhaps the part that lay here was damaged: once more from the start
                on_bytes(-out.tell())
                out.truncate(0)
                begun = _complete(repository, file, out, on_bytes)
            if not begun:
                out.truncate(0)
                raise DownloadError(
                    f"{file.path} arrived whole but its digest is not {file.digest}, as {repository.endpoint} says it "
                    "should be. It was deleted; run the same again. If it persists, the hub or a proxy alters files."
                )
        os.fsync(out.fileno())
    os.replace(unfinished, final)


def _complete(repository: Repository, file: RemoteFile, out: FileIO, on_bytes: Callable[[int], None]) -> bool:
    """Append what is missing; whether the whole then has the right digest."""
    assert file.size is not None
    digest = _hash(file)
    out.seek(0)
    while chunk := out.read(_CHUNK):
        digest.update(chunk)
    if out.tell() > file.size:
        return False
    failures = 0
    while out.tell() < file.size:
        before = out.tell()
        try:
            _append(repository, file, out, digest, on_bytes)
            if out.tell() == before:
                raise hub_http.Disconnected(f"{repository.url(file.path)}: the connection ended before a byte came.")
        except (hub_http.Disconnected, hub_http.Refused) as error:
            failures = 1 if out.tell() > before else failures + 1
            if not _wait(error, failures):
                kept = f" {out.tell():,} of {file.size:,} bytes are kept: run the same again to go on."
                raise DownloadError(error.message + (kept if out.tell() else "")) from None
    return bool(digest.hexdigest() == file.digest)


def patiently(ask: Callable[[], Answered]) -> Answered:
    """What `ask()` returns, asked again where the hub says that it is busy, and once where the connection ended: one
    that was kept open may have been closed meanwhile."""
    failures = 0
    while True:
        try:
            return ask()
        except hub_http.Disconnected:
            if failures:
                raise
            failures += 1
        except hub_http.Refused as error:
            failures += 1
            if not _wait(error, failures):
                raise


def _wait(error: hub_http.Disconnected | hub_http.Refused, failures: int) -> bool:
    """Wait as long as the hub wishes, and longer with each failure; False when it is time to give up."""
    wished = error.wait if isinstance(error, hub_http.Refused) else 0.0
    if wished is None or wished > LONGEST_WAIT or failures >= ATTEMPTS:
        return False
    seconds = max(wished, min(0.5 * 2**failures, 10.0))
    log.warning("%s Trying again in %.0f s.", error.message, seconds)
    sleep(seconds)
    return True


def _append(
    repository: Repository, file: RemoteFile, out: FileIO, digest: Any, on_bytes: Callable[[int], None]
) -> None:
    assert file.size is not None
    at = out.tell()
    with hub_http.stream(repository, repository.url(file.path), at) as answer:
        if answer.digest not in (None, file.digest) and len(answer.digest or "") == len(file.digest or ""):
            raise Changed(f"{file.path} changed on the hub while it was fetched: it is {answer.digest} now.")
        if answer.total not in (None, file.size) or answer.start > at:
            raise Changed(
                f"{repository.url(file.path)} should be {file.size:,} bytes long and the server says "
                f"{'nothing' if answer.total is None else f'{answer.total:,}'}, from byte {answer.start:,} on."
            )
        skip = at - answer.start
        for chunk in answer.chunks:
            fresh, skip = chunk[skip:] if skip else chunk, max(0, skip - len(chunk))
            if out.tell() + len(fresh) > file.size:
                raise Changed(
                    f"{repository.url(file.path)} sends more than the {file.size:,} bytes that it should have."
                )
            left = memoryview(fresh)
            while left:
                left = left[out.write(left) :]
            digest.update(fresh)
            on_bytes(len(fresh))


def is_whole(path: Path, file: RemoteFile) -> bool:
    """Whether a file has the size and digest."""
    if file.size is not None and path.stat().st_size != file.size:
        return False
    digest = _hash(file)
    with open(path, "rb") as data:
        while chunk := data.read(_CHUNK):
            digest.update(chunk)
    return file.digest in (None, digest.hexdigest())


def _hash(file: RemoteFile) -> Any:
    """SHA-256 for large files; for others git's SHA-1, which begins with a header."""
    if file.digest is None or len(file.digest) == 64:
        return hashlib.sha256()
    return hashlib.sha1(b"blob %d\0" % (file.size or 0), usedforsecurity=False)


@contextmanager
def _disk(path: Path, file: RemoteFile) -> Iterator[None]:
    """Says what a full disk means for a download."""
    try:
        yield
    except OSError as error:
        if error.errno not in disk.FULL:
            raise
        there = path.stat().st_size if path.exists() else 0
        needed = max(0, (file.size or 0) - there)
        raise DownloadError(
            f"the disk of {path.parent} is full ({error.strerror}): {needed:,} bytes of {file.path} are missing and "
            f"{disk.free(path):,} bytes are free. What has come is kept: make room and run the same "
            "again to go on, or set HF_HOME to a folder on another disk."
        ) from error
