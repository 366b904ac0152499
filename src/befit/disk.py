"""Disks that are full: what is told of one, and files that are written whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from befit.errors import DoesNotFit

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system says of a disk, a quota or a file that takes no more."""


def free(place: Path) -> int:
    """Bytes that are free where a file or folder is, or would be; 0 where nothing can be told."""
    for each in (place, *place.absolute().parents):
        try:
            return shutil.disk_usage(each).free
        except OSError:
            continue
    return 0


def amounts(needed: int | None, place: Path) -> str:
    """How much was to be written and how much is free there: 'it takes 10,000 bytes and 4,096 are free'."""
    takes = f"it takes {needed:,} bytes and " if needed is not None else ""
    return f"{takes}{free(place):,} bytes are free"


@contextmanager
def room(what: str, place: Path, needed: int | None = None) -> Iterator[None]:
    """Raises DoesNotFit in place of the system's error when the disk of `place` is found full while `what`, which takes
    `needed` bytes if that is known, is written within. Other errors pass."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise DoesNotFit(
            f"{what} cannot be written, the disk of {place} is full ({error.strerror}): {amounts(needed, place)}. "
            "Make room there, or name a place on another disk."
        ) from error


def write_whole(path: Path, text: str) -> None:
    """Write a file in UTF-8 under a hidden name beside its own, force it to disk, and rename it.

    What had the name stays until then, and if it fails. What is no plain file, as /dev/stdout, is written in place.
    Raises DoesNotFit, OSError.
    """
    data = text.encode()
    path = path.resolve()
    if path.exists() and not path.is_file():
        with room(path.name, path.parent, len(data)):
            path.write_bytes(data)
        return
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with room(path.name, path.parent, len(data)):
            with open(partial, "wb", buffering=0) as out:
                write_all(out.fileno(), data)
                os.fsync(out.fileno())
            os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_all(descriptor: int, data: bytes) -> None:
    """Write all bytes, which the system may take a part at a time. Raises OSError."""
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]
