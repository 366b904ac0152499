"""The models of the server, and those that are stored, in the shapes of `/api/tags`, `/api/ps` and `/api/show`."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from befit.api.models.member import Member
from befit.api.service import Service
from befit.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from befit.models.program import Program
    from befit.store import ModelRow

OLLAMA_VERSION = "0.12.0"
"""Clients ask for a version to know what they may send: fields of this one are known here."""

_FOREVER = timedelta(days=365 * 100)


def tags(members: Sequence[Member], stored: Iterable[ModelRow] = ()) -> dict[str, Any]:
    """The served names, of which a model may have several, and the stored models beside them. Reads headers."""
    listed = [_entry(member.path, name, member.service) for member in members for name in member.names]
    known = {entry["name"] for entry in listed}
    others = [_entry(row.path, row.name, None) for row in stored if row.name not in known and not row.problem]
    return {"models": [*listed, *others]}


def running(members: Sequence[Member]) -> dict[str, Any]:
    """The models in memory. size: bytes that they take at most."""
    now = datetime.now(UTC)
    return {
        "models": [
            {
                **_entry(member.path, name, member.loaded.service),
                **({"size": member.loaded.memory} if member.loaded.memory else {}),
                "size_vram": 0,
                "expires_at": (now + (_FOREVER if left is None else timedelta(seconds=left))).isoformat(),
                "context_length": member.loaded.service.ctx,
            }
            for member in members
            if member.loaded is not None
            for left in (member.expires,)
            for name in member.names
        ]
    }


@dataclass(frozen=True, slots=True)
class Facts:
    """What is shown of a model. context: tokens that it has when it is served, or that it allows."""

    path: Path
    metadata: Mapping[str, Any]
    family: str
    context: int
    template: str
    fills: bool
    thinks: bool
    details: Mapping[str, Any]
    settings: Mapping[str, Any]


def facts_of(service: Service, path: Path) -> Facts:
    """Of a model in memory."""
    model = service.engine.model
    return Facts(
        path,
        model.metadata,
        model.program.family,
        service.ctx,
        service.template.text,
        service.fim is not None,
        service.reasoning is not None,
        _details(path, service),
        service.settings,
    )


def read_facts(path: Path, settings: Mapping[str, Any]) -> Facts:
    """Of a model that is not in memory: off its headers, with its tokeniser, which takes a second."""
    from befit import tokenizer
    from befit.api.chat import ChatTemplate
    from befit.api.fim import FimFormat
    from befit.api.reasoning import detect_reasoning

    with _headers(path) as (metadata, program, _, _):
        tokens = tokenizer.load(metadata)
        text = settings.get("template") or ChatTemplate.from_metadata(metadata, tokens, beside=path).text
        return Facts(
            path,
            metadata,
            program.family,
            program.max_context,
            text,
            FimFormat.find(tokens) is not None,
            detect_reasoning(tokens) is not None,
            _details(path, None),
            settings,
        )


def show(facts: Facts, name: str) -> dict[str, Any]:
    """One model under a name."""
    metadata = facts.metadata
    listed = {key: value for key, value in metadata.items() if not isinstance(value, list | tuple | bytes)}
    architecture = str(metadata.get("general.architecture", facts.family))
    info = {str(key): value for key, value in listed.items() if isinstance(value, str | int | float | bool)}
    info[f"{architecture}.context_length"] = facts.context
    info["general.architecture"] = architecture
    capabilities = ["completion", "tools", "embedding"]
    capabilities += [what for what, has in (("insert", facts.fills), ("thinking", facts.thinks)) if has]
    settings = facts.settings
    parameters = [f"num_ctx {facts.context}"]
    for key, value in settings.get("parameters", {}).items():
        parameters += [f"{key} {each!r}" if isinstance(each, str) else f"{key} {each}" for each in _each(value)]
    modelfile = [f"FROM {name}", *(f"PARAMETER {line}" for line in parameters[1:])]
    if settings.get("system"):
        modelfile.append(f'SYSTEM """{settings["system"]}"""')
    return {
        "modelfile": "\n".join(modelfile) + "\n",
        "parameters": "\n".join(parameters),
        # Editors take a model for one that fills in the middle when its template, in Ollama's language, has a suffix.
        "template": facts.template + ("{{ .Suffix }}" if facts.fills else ""),
        **({"system": settings["system"]} if settings.get("system") else {}),
        "license": str(settings.get("license") or metadata.get("general.license", "")),
        "details": dict(facts.details),
        "model_info": info,
        "capabilities": capabilities,
        "modified_at": _modified(facts.path),
    }


def _each(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _entry(path: Path, name: str, service: Service | None) -> dict[str, Any]:
    return {
        "name": name,
        "model": name,
        "modified_at": _modified(path),
        "size": _size(path),
        "digest": hashlib.sha256(f"{path.resolve()}|{_stamp(path)}".encode()).hexdigest(),
        "details": _details(path, service),
    }


def _details(path: Path, service: Service | None) -> dict[str, Any]:
    if service is not None:
        model = service.engine.model
        family, count, quantisation = model.program.family, model.parameters, model.quantisation
    else:
        family, count, quantisation = _brief(path, _stamp(path))
    return {
        "parent_model": "",
        "format": "gguf" if path.suffix == ".gguf" else "folder",
        "family": family,
        "families": [family],
        "parameter_size": _parameters(count),
        "quantization_level": quantisation,
    }


@lru_cache(maxsize=256)
def _brief(path: Path, stamp: int) -> tuple[str, int, str]:
    """Family, number of parameters and most frequent format of a file; the stamp is of its time. For a file that befit
    cannot run: nothing."""
    try:
        with _headers(path) as (_, program, shapes, types):
            sizes: dict[str, int] = {}
            for kind, size in types:
                sizes[kind.upper()] = sizes.get(kind.upper(), 0) + size
            return program.family, sum(map(prod, shapes.values())), max(sizes, key=lambda kind: sizes[kind], default="")
    except (ModelError, OSError):
        return "", 0, ""


_Headers: TypeAlias = tuple[Mapping[str, Any], "Program", Mapping[str, tuple[int, ...]], list[tuple[str, int]]]


@contextmanager
def _headers(path: Path) -> Iterator[_Headers]:
    """Metadata, program, shapes, and types with sizes, of a file or folder."""
    from befit import models, store

    if store.is_build(str(path)):
        from befit.prepared.read import open_build

        build = open_build(path)
        try:
            shapes = {section.name: section.shape for section in build.sections}
            yield build.metadata, build.program, shapes, [(each.kind, each.nbytes) for each in build.sections]
        finally:
            build.close()
        return
    from befit.weights.checkpoint import open_checkpoint

    with open_checkpoint(path) as file:
        program = models.describe(file.metadata, file.shapes, lambda key: file.tensors[key].dequantize())
        yield file.metadata, program, file.shapes, file.types


def _parameters(count: int) -> str:
    return f"{count / 1e9:.1f}B" if count >= 1e9 else f"{count / 1e6:.2f}M"


def _size(path: Path) -> int:
    if path.is_dir():
        return sum(one.stat().st_size for one in path.iterdir() if one.is_file())
    return path.stat().st_size if path.exists() else 0


def _stamp(path: Path) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0


def _modified(path: Path) -> str:
    return datetime.fromtimestamp(_stamp(path) / 1e9, UTC).isoformat()
