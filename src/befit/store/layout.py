"""The folder that models live in.

    $BEFIT_HOME, else ~/.cache/befit
    ├── models/FAMILY/TAG/FILE.gguf       one folder a model: removing the folder removes the model
    ├── models/FAMILY/TAG/manifest.json   its name, size, sha256, source, and when it came
    ├── kernels/CARD-VERSIONS/            Triton's cache: kernels compiled for a card
    └── partial/                          downloads under way, and one lock file a model

A model's folder is moved into place whole, with one rename, so a model that is listed is complete.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from befit.errors import CorruptFile
from befit.store import names

MANIFEST = "manifest.json"
_OPTIONAL = ("parts", "settings")
BUILD_MANIFEST = "befit-build.json"
"""The file that makes a folder one that `befit build` wrote."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What is stored.

    file        the file to open; empty when that is the folder itself
    size        bytes of all files together
    sha256      of a single file, hexadecimal; empty where it is not known
    pulled_at   ISO 8601 with its time zone
    parts       bytes of each file by name, of models that have several
    settings    what it was created with beside its weights: system, template, parameters, license
    """

    name: str
    file: str
    size: int
    sha256: str
    source: str
    pulled_at: str
    parts: Mapping[str, int] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def files(self) -> Mapping[str, int]:
        """Bytes of each file by name."""
        return self.parts or {self.file: self.size}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRow:
    """One line of `befit list`.

    where     whose folder it is in: "befit", "hub" or "ollama"
    sha       the digest's first 12 digits, or empty
    problem   empty, or what is wrong with the stored files
    """

    name: str
    size: int
    modified: datetime
    path: Path
    sha: str
    problem: str = ""
    where: str = "befit"


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
    for file, expected in manifest.files.items():
        path = place / file
        size = path.stat().st_size if path.is_file() else None
        if size != expected:
            state = "is missing" if size is None else f"has {size:,} bytes instead of {expected:,}"
            raise CorruptFile(f"{path} {state}; fetch it again with: befit pull {name}")
    return manifest, place / manifest.file


def read_manifest(place: Path) -> Manifest:
    """The manifest in a model's folder. Raises `FileNotFoundError` or, when it makes no sense, `CorruptFile`."""
    path = place / MANIFEST
    try:
        fields = json.loads(path.read_bytes())
        manifest = Manifest(**{key: fields[key] for key in Manifest.__slots__ if key not in _OPTIONAL or key in fields})
        sound = isinstance(manifest.settings, dict) and all(
            isinstance(size, int) and Path(str(file)).name == file and file != MANIFEST
            for file, size in ((manifest.file, manifest.size), *manifest.parts.items())
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptFile(f"{path} is no manifest ({type(error).__name__}: {error}); remove {place}") from error
    except NotADirectoryError as error:
        raise FileNotFoundError(path) from error
    if not sound:
        raise CorruptFile(f"{path} names file {manifest.file!r} with size {manifest.size!r}; remove {place}")
    return manifest


def settings(path: Path) -> Mapping[str, Any]:
    """What a stored model was created with; nothing for files that are not in the store. Raises CorruptFile."""
    place = path if path.is_dir() else path.parent
    if not place.absolute().is_relative_to(home() / "models"):
        return {}
    try:
        return read_manifest(place).settings
    except FileNotFoundError:
        return {}


def write_manifest(place: Path, manifest: Manifest) -> None:
    """Write a manifest and force it to disk."""
    with open(place / MANIFEST, "w", encoding="utf-8") as file:
        fields = asdict(manifest)
        json.dump({key: value for key, value in fields.items() if key not in _OPTIONAL or value}, file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())


def stored_names() -> list[str]:
    """Full names of all stored models, sorted, damaged ones included."""
    places = (home() / "models").glob(f"*/*/{MANIFEST}")
    found = (f"{place.parent.parent.name}:{place.parent.name}" for place in places)
    return sorted(name for name in found if names.parse(name))


def install(ready: Path, place: Path) -> None:
    """Move a finished folder into place; a damaged one that is there makes room, and lies beside `ready` then."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.exists():
        os.rename(place, ready.parent / "damaged")
    os.rename(ready, place)
    for each in (place, place.parent):
        descriptor = os.open(each, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def slug(name: str) -> str:
    """What a name's lock and unfinished files are called."""
    return name.replace(":", "--")


def lock(name: str) -> Path:
    """The file whose lock the one who changes this model holds."""
    return partial() / f"{slug(name)}.lock"
