"""Where Triton keeps compiled kernels: in befit's own folder, so that a start need not compile what one before it did.

Triton finds a kernel by a digest of its source, of the card's architecture and of its own version; the folder is one
for each card and versions as well, so that what is out of date can be removed. It loads code from there: the folder is
never that of a model, and only one that belongs to the user alone is taken.
"""

from __future__ import annotations

import os
import re
from importlib import metadata

from befit.store.layout import home

VARIABLE = "TRITON_CACHE_DIR"


def keep_kernels(card: str, capability: tuple[int, int] | None) -> None:
    """Name the folder to Triton, which looks when it compiles. Nothing happens where the user has named one, or where
    there can be none: Triton has a place of its own."""
    if os.environ.get(VARIABLE):
        return
    versions = [f"{name}-{_version(name)}" for name in ("torch", "triton")]
    major, minor = capability or (0, 0)
    label = "-".join([card, f"sm{major}{minor}", *versions])
    folder = home() / "kernels" / re.sub(r"[^a-z0-9.]+", "-", label.lower()).strip("-.")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = os.lstat(folder)
    except OSError:
        return
    if status.st_uid == os.getuid() and not status.st_mode & 0o022 and os.access(folder, os.W_OK):
        os.environ[VARIABLE] = str(folder)


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:  # another distribution has it
        return "unknown"
