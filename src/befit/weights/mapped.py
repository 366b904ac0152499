"""A model file mapped into memory for reading."""

from __future__ import annotations

import mmap
import os
import stat
from pathlib import Path

from befit.errors import CorruptFile, ModelError, ModelNotFound


def map_file(path: Path) -> mmap.mmap:
    """Map a whole regular file for reading. Raises ModelNotFound, ModelError or CorruptFile (an empty one)."""
    try:
        # Non-blocking, because opening a pipe would otherwise wait for someone to write to it.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise ModelNotFound(f"{path}: there is no such file") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be opened: {error}") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ModelError(f"{path}: not a regular file; give the path of a {path.suffix or '.gguf'} file")
        if status.st_size == 0:
            raise CorruptFile(f"{path}: the file is empty (0 bytes); fetch it again")
        return mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise ModelError(f"{path}: cannot be mapped into memory: {error}") from error
    finally:
        os.close(descriptor)
