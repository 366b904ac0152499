"""One process at a time: a lock on a file, freed by the kernel with its holder, also after kill -9."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def alone(path: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold the lock on `path`; when another process holds it, call `on_wait()` once and wait.

    `huggingface_hub` locks the files of its cache in the same way, so the two keep out of each other's way. It may
    remove a lock's file: then the lock is taken anew.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    told = False
    while True:
        with open(path, "a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not told:
                    on_wait()
                    told = True
                fcntl.flock(file, fcntl.LOCK_EX)
            if not _is_at(path, file.fileno()):
                continue
            yield
            return


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False
