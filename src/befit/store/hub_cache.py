"""Models that lie in the hub's own cache, whoever fetched them. Read here without the client, so that a start is quick.

    $HF_HUB_CACHE, else $HF_HOME/hub, else ~/.cache/huggingface/hub
    └── models--OWNER--REPOSITORY
        ├── blobs/DIGEST                  the files, by SHA-256 or git's SHA-1
        ├── refs/REVISION                 the commit that a branch or tag meant when it was last asked for
        └── snapshots/COMMIT/PATH         links to the blobs

Source: the documentation of huggingface_hub, "Understand caching".
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from befit.errors import ModelNotFound
from befit.store import choice
from befit.store.repository import Repository

_PART = re.compile(r"-\d{5}-of-(\d{5})\.safetensors")
_COMMIT = re.compile(r"[0-9a-f]{40}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Cached:
    """A model in the cache: the repository and commit, and its files, the first to open first."""

    repository: Repository
    snapshot: Path
    files: tuple[str, ...]

    @property
    def path(self) -> Path:
        """What befit opens: a GGUF file, its first part, or the snapshot's folder."""
        return self.snapshot / self.files[0] if self.files[0].lower().endswith(".gguf") else self.snapshot

    @property
    def paths(self) -> list[Path]:
        """Every file."""
        return [self.snapshot / file for file in self.files]

    @property
    def ref(self) -> str:
        """How a user names it."""
        file = f":{self.files[0]}" if self.files[0].lower().endswith(".gguf") else ""
        revision = "" if self.repository.revision == "main" else f"@{self.repository.revision}"
        return f"hf:{self.repository.name}{revision}{file}"


def folder() -> Path:
    """The hub's cache, as the hub's own client finds it. It need not exist."""
    named = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    if not named:
        cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        named = os.path.join(os.environ.get("HF_HOME") or os.path.join(cache, "huggingface"), "hub")
    return Path(os.path.expandvars(named)).expanduser().absolute()


def place(repository: Repository) -> Path:
    """The folder of a repository."""
    return folder() / f"models--{repository.name.replace('/', '--')}"


def snapshot(repository: Repository) -> Path | None:
    """The files of this revision that are there, or None when nothing of it is."""
    commit = repository.revision
    if not _COMMIT.fullmatch(commit):
        try:
            commit = (place(repository) / "refs" / commit).read_text(encoding="utf-8").strip()
        except OSError:
            return None
    found = place(repository) / "snapshots" / commit
    return found if _COMMIT.fullmatch(commit) and found.is_dir() else None


def find(repository: Repository) -> Cached | None:
    """The model that the repository's `file` asks for, or None unless all of it is there and only one is meant."""
    at = snapshot(repository)
    if at is None:
        return None
    try:
        chosen = choice.choose(_files(at), repository.file, repository.name)
    except ModelNotFound:
        return None
    return Cached(repository, at, chosen) if chosen[0].lower().endswith(".gguf") or is_complete(at) else None


def is_complete(folder: Path) -> bool:
    """Whether a folder holds a configuration and all its safetensors: those that its index names, or all parts."""
    import json

    if not (folder / choice.CONFIG).is_file():
        return False
    try:
        index = json.loads((folder / choice.INDEX).read_bytes())
        return all((folder / file).is_file() for file in set(index["weight_map"].values()))
    except FileNotFoundError:
        weights = [file.name for file in folder.glob("*.safetensors")]
        parts = [int(part[1]) for name in weights if (part := _PART.search(name))]
        return bool(weights) and all(parts.count(count) == count for count in parts)
    except (ValueError, KeyError, TypeError, AttributeError):
        return False


def models() -> Iterator[Cached]:
    """Every whole model in the cache, by repository: those of the revisions that have a name, `main` first."""
    for at in sorted(folder().glob("models--*--*")):
        owner, _, name = at.name.removeprefix("models--").partition("--")
        refs = sorted((p for p in at.glob("refs/**/*") if p.is_file()), key=lambda p: (p.name != "main", p))
        seen: set[Path] = set()
        for ref in refs:
            repository = Repository(f"{owner}/{name}", str(ref.relative_to(at / "refs")))
            found = snapshot(repository)
            if found is None or found in seen:
                continue
            seen.add(found)
            files = _files(found)
            for parts in choice.models(files):
                yield Cached(replace(repository, file=parts[0]), found, parts)
            if is_complete(found):
                yield Cached(repository, found, choice.tensors(files))


def _files(at: Path) -> list[str]:
    """Paths of the files in a snapshot, links that lead nowhere left out."""
    return sorted(str(path.relative_to(at)) for path in at.rglob("*") if path.is_file())
