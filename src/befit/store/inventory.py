"""What is on this machine: befit's own models, those in the hub's cache, and Ollama's."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from befit.errors import CorruptFile
from befit.store import catalogue, choice, hub_cache, layout, ollama
from befit.store.hub_cache import Cached
from befit.store.layout import ModelRow

_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)


def list_models() -> list[ModelRow]:
    """All models that befit finds here, befit's own first, each kind by name."""
    own = [_own(name) for name in layout.stored_names()]
    hub = sorted((_cached(model) for model in hub_cache.models() if _is_language_model(model)), key=_name)
    theirs = [
        ModelRow(
            name=f"ollama:{model.name}",
            size=model.size,
            modified=_time(model.path),
            path=model.path,
            sha=model.sha256[:12],
            where="ollama",
        )
        for model in ollama.list_models()
    ]
    return own + hub + sorted(theirs, key=_name)


def _name(row: ModelRow) -> str:
    return row.name


def _own(name: str) -> ModelRow:
    place = layout.folder(name)
    path, size, sha, problem = place, 0, "", ""
    try:
        manifest = layout.read_manifest(place)
        path, size, sha = place / manifest.file, manifest.size, manifest.sha256[:12]
        layout.stored(name)
    except CorruptFile as error:
        problem = error.message
    at = path if path.exists() else place
    return ModelRow(name=name, size=size, modified=_time(at), path=path, sha=sha, problem=problem)


def _cached(model: Cached) -> ModelRow:
    digest = model.path.resolve().name
    return ModelRow(
        name=short_name(model),
        size=sum(path.stat().st_size for path in model.paths),
        modified=_time(model.path),
        path=model.path,
        sha=digest[:12] if _SHA256.fullmatch(digest) else "",
        where="hub",
    )


def short_name(model: Cached) -> str:
    """The catalogue's name of a model in the hub's cache, or how else it is named."""
    if model.repository.revision == "main":
        quantised = choice.quantisation(model.files[0])
        for known in catalogue.models().values():
            if known.gguf == model.repository.name and quantised is not None:
                named = catalogue.Named(known, quantised)
                found = hub_cache.find(named.repository)
                if named.wheel is None and found is not None and found.files == model.files:
                    return named.name
    return model.ref


def _is_language_model(model: Cached) -> bool:
    """Whether a folder's configuration is that of a model that writes text; a GGUF file counts as one."""
    if model.path.suffix.lower() == ".gguf":
        return True
    try:
        kinds = json.loads((model.snapshot / choice.CONFIG).read_bytes())["architectures"]
        return any(str(kind).endswith("ForCausalLM") for kind in kinds)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _time(path: Path) -> datetime:
    return datetime.fromtimestamp(path.stat().st_mtime).astimezone()


@dataclass(frozen=True, slots=True)
class Usage:
    """Bytes on the disk: of a model, or of downloads that are not finished."""

    name: str
    where: str
    size: int


def disk_usage() -> list[Usage]:
    """What each model takes, the largest first, and what unfinished downloads do. A file that several models share is
    counted once, with the first of them."""
    seen: set[tuple[int, int]] = set()
    found = [Usage(row.name, row.where, _bytes(_files(row), seen)) for row in list_models()]
    for where, paths in (("befit", _unfinished_own()), ("hub", unfinished_hub())):
        taken = _bytes(paths, seen)
        if taken:
            found.append(Usage("(unfinished downloads)", where, taken))
    return sorted(found, key=lambda usage: -usage.size)


def _files(row: ModelRow) -> Iterable[Path]:
    if row.where == "befit":
        return _below(layout.folder(row.name))
    if row.where == "ollama":
        return [row.path]
    if row.path.is_dir():
        return _below(row.path)
    return next((model.paths for model in hub_cache.models() if model.path == row.path), [row.path])


def _below(folder: Path) -> Iterator[Path]:
    for at, _, names in os.walk(folder):
        yield from (Path(at, name) for name in names)


def _unfinished_own() -> Iterator[Path]:
    return (path for path in _below(layout.partial()) if path.suffix != ".lock")


def unfinished_hub() -> Iterator[Path]:
    """What interrupted downloads left in the hub's cache, befit's own and other tools'."""
    return hub_cache.folder().glob("models--*--*/blobs/*.incomplete")


def _bytes(paths: Iterable[Path], seen: set[tuple[int, int]]) -> int:
    total = 0
    for path in paths:
        try:
            facts = path.stat()
        except OSError:
            continue
        if (facts.st_dev, facts.st_ino) not in seen:
            seen.add((facts.st_dev, facts.st_ino))
            total += facts.st_blocks * 512
    return total
