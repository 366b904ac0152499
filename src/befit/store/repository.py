"""What `hf:OWNER/REPOSITORY[@REVISION][:FILE]` means."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from urllib.parse import quote

from befit.errors import ModelNotFound

ENDPOINT = "https://huggingface.co"
_REF = re.compile(r"(?:hf:)?(?P<repo>[\w.-]+/[\w.-]+?)(?:@(?P<revision>[\w./-]+))?(?::(?P<file>[\w./ -]+))?", re.ASCII)
_REF_LATE = re.compile(r"(?P<front>[^@]+:[^@]+)@(?P<revision>[\w./-]+)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository at a revision; `file` is the one that the user named, or a quantisation."""

    name: str
    revision: str = "main"
    file: str | None = None

    @property
    def endpoint(self) -> str:
        """Where the hub is."""
        return os.environ.get("HF_ENDPOINT", "").rstrip("/") or ENDPOINT

    def url(self, path: str) -> str:
        """Where a file of this revision is."""
        return f"{self.endpoint}/{self.name}/resolve/{quote(self.revision, safe='')}/{quote(path)}"


def parse(ref: str) -> Repository | None:
    """The repository that `hf:owner/repo[@revision][:file]` or `owner/repo` means, or None.

    The revision may also stand behind the file.
    """
    if late := _REF_LATE.fullmatch(ref.removeprefix("hf:")):
        found = parse(f"hf:{late['front']}")
        return replace(found, revision=late["revision"]) if found else None
    match = _REF.fullmatch(ref)
    if match is None or (os.path.exists(ref) and not ref.startswith("hf:")):
        return None
    if not all(map(is_inside, (match["repo"], match["revision"] or "main", match["file"] or "x"))):
        return None
    return Repository(match["repo"], match["revision"] or "main", match["file"])


def is_inside(path: str) -> bool:
    """Whether a path stays below where it begins: what a hub says must not lead anywhere else."""
    parts = path.split("/")
    return all(part.strip(".") and "\0" not in part and "\\" not in part for part in parts)


def require(ref: str) -> Repository:
    """Like `parse`, but raises ModelNotFound for what means none."""
    repository = parse(ref)
    if repository is None:
        raise ModelNotFound(f"{ref!r} is no repository: write hf:OWNER/REPOSITORY[@REVISION][:FILE].")
    return repository
