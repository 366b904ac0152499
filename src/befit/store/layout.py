"""The folder that models live in.

    $BEFIT_HOME, else ~/.cache/befit
    ├── models/FAMILY/TAG/FILE.gguf       one folder a model: removing the folder removes the model
    ├── models/FAMILY/TAG/manifest.json   its name, size, sha256, source, and when it came
    └── partial/                          downloads under way, and one lock file a model

A model's folder is moved into place whole, with one rename, so a model that is listed is complete.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from befit.errors import CorruptFile
from befit.store import names

MANIFEST = "manifest.json"
BUILD_MANIFEST = "befit-build.json"
"""The file that makes a folder one that `befit build` wrote."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What was fetched: `size` in bytes, `sha256` hexadecimal, `pulled_at` in ISO 8601 with its time zone."""

    name: str
    file: str
    size: int
    sha256: str
    source: str
    pulled_at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRow:
    """One line of `befit list`. `problem` is empty, or says what is wrong with the stored files."""

    name: str
    size: int
    modified: datetime
    path: Path
    sha: str
    problem: str = ""


def home() -> Path:
    """The store's root: `BEFIT_HOME` when it is set and not empty, else `~/.cache/befit`. It need not exist."""
    return Path(os.environ.get("BEFIT_HOME") or "~/.cache/befit").expanduser().absolute()


def folder(name: str) -> Path:
    """The folder of the model with this full name."""
    parsed = names.require(name)
    return home() / "models" / parsed.family / (parsed.tag or "latest")


def partial() -> Path:
    """The folder of downloads under way."""
    return home() / "partial"


def stored(name: str) -> tuple[Manifest, Path] | None:
    """Manifest and file of a stored model, or None. Raises `CorruptFile` when its files are damaged.

    Compares sizes only, so it costs microseconds; `befit pull` compares the digest.
    """
    place = folder(name)
    try:
        manifest = read_manifest(place)
    except FileNotFoundError:
        return None
    path = place / manifest.file
    size = path.stat().st_size if path.is_file() else None
    if size != manifest.size:
        state = "is missing" if size is None else f"has {size:,} bytes instead of {manifest.size:,}"
        raise CorruptFile(f"{path} {state}; fetch it again with: befit pull {name}")
    return manifest, path


def read_manifest(place: Path) -> Manifest:
    """The manifest in a model's folder. Raises `FileNotFoundError` or, when it makes no sense, `CorruptFile`."""
    path = place / MANIFEST
    try:
        fields = json.loads(path.read_bytes())
        manifest = Manifest(**{key: fields[key] for key in Manifest.__slots__})
        sound = isinstance(manifest.size, int) and Path(str(manifest.file)).name == manifest.file
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptFile(f"{path} is no manifest ({type(error).__name__}: {error}); remove {place}") from error
    except NotADirectoryError as error:
        raise FileNotFoundError(path) from error
    if not sound:
        raise CorruptFile(f"{path} names file {manifest.file!r} with size {manifest.size!r}; remove {place}")
    return manifest


def write_manifest(place: Path, manifest: Manifest) -> None:
    """Write a manifest and force it to disk."""
    with open(place / MANIFEST, "w", encoding="utf-8") as file:
        json.dump(asdict(manifest), file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())


def stored_names() -> list[str]:
    """Full names of all stored models, sorted, damaged ones included."""
    places = (home() / "models").glob(f"*/*/{MANIFEST}")
    found = (f"{place.parent.parent.name}:{place.parent.name}" for place in places)
    return sorted(name for name in found if names.parse(name))


def list_models() -> list[ModelRow]:
    """All stored models, by name."""
    return [_row(name) for name in stored_names()]


def _row(name: str) -> ModelRow:
    place = folder(name)
    path, size, sha, problem = place, 0, "", ""
    try:
        manifest = read_manifest(place)
        path, size, sha = place / manifest.file, manifest.size, manifest.sha256[:12]
        stored(name)
    except CorruptFile as error:
        problem = error.message
    at = path if path.exists() else place
    modified = datetime.fromtimestamp(at.stat().st_mtime).astimezone()
    return ModelRow(name=name, size=size, modified=modified, path=path, sha=sha, problem=problem)
