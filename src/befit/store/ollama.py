"""The models of an Ollama that lives on this machine, read in place: nothing is copied and nothing is changed.

    $OLLAMA_MODELS, else ~/.ollama/models
    ├── manifests/HOST/NAMESPACE/MODEL/TAG    JSON: the layers of a model by media type, digest and size
    └── blobs/sha256-DIGEST                   the layers; that of the weights is a GGUF file

Source: Ollama, `server/manifest.go` and `types/model/name.go`. Its templates are in another language and are not
read: a GGUF file has its own.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from befit.errors import CorruptFile, ModelNotFound, UnsupportedModel

_HOST, _NAMESPACE, _TAG = "registry.ollama.ai", "library", "latest"
_TYPE = "application/vnd.ollama.image."
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", re.ASCII)
_DIGEST = re.compile(r"sha256[:-]([0-9a-f]{64})", re.ASCII)


@dataclass(frozen=True, slots=True)
class OllamaModel:
    """A model of Ollama's: its short name, the GGUF file's path, bytes and SHA-256."""

    name: str
    path: Path
    size: int
    sha256: str


def folder() -> Path:
    """Ollama's store. It need not exist."""
    return Path(os.environ.get("OLLAMA_MODELS") or "~/.ollama/models").expanduser().absolute()


def find(name: str) -> OllamaModel:
    """The model that Ollama calls `[host/][namespace/]model[:tag]`.

    Raises ModelNotFound with the names that there are, CorruptFile, or UnsupportedModel for one with adapters.
    """
    manifest = _manifest(name)
    if manifest is None or not manifest.is_file():
        names = ", ".join(f"ollama:{each}" for each in list_names()) or "none"
        raise ModelNotFound(f"Ollama has no model {name!r} in {folder()}. It has: {names}.")
    return _read(manifest)


def list_models() -> Iterator[OllamaModel]:
    """All models that befit could open, by name; those that are damaged or of other kinds are left out."""
    for manifest in _manifests():
        try:
            yield _read(manifest)
        except (CorruptFile, UnsupportedModel):
            continue


def list_names() -> list[str]:
    """The short names of all models."""
    return [_short(manifest) for manifest in _manifests()]


def _manifests() -> list[Path]:
    return sorted(path for path in folder().glob("manifests/*/*/*/*") if path.is_file())


def _manifest(name: str) -> Path | None:
    front, _, tag = name.rpartition(":") if ":" in name.rpartition("/")[2] else (name, "", _TAG)
    parts = front.split("/")
    if not 1 <= len(parts) <= 3 or not all(_PART.fullmatch(part) for part in (*parts, tag)):
        return None
    host, namespace, model = [_HOST, _NAMESPACE, ""][: 3 - len(parts)] + parts
    path = folder() / "manifests" / host / namespace / model / tag
    if path.is_file():
        return path
    wanted = [part.lower() for part in path.parts[-4:]]
    return next((each for each in _manifests() if [part.lower() for part in each.parts[-4:]] == wanted), None)


def _short(manifest: Path) -> str:
    host, namespace, model, tag = manifest.parts[-4:]
    front = model if (host, namespace) == (_HOST, _NAMESPACE) else f"{namespace}/{model}"
    return f"{front if host == _HOST else f'{host}/{namespace}/{model}'}:{tag}"


def _read(manifest: Path) -> OllamaModel:
    name = _short(manifest)
    try:
        layers: list[dict[str, Any]] = json.loads(manifest.read_bytes())["layers"]
        kinds = {str(layer["mediaType"]).removeprefix(_TYPE): layer for layer in layers}
        weights = [layer for layer in layers if layer["mediaType"] == f"{_TYPE}model"]
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptFile(f"{manifest} is no manifest of Ollama's ({type(error).__name__}: {error}).") from error
    if "adapter" in kinds:
        raise UnsupportedModel(f"ollama:{name} has an adapter, which befit does not apply; use the model it adapts.")
    if len(weights) != 1:
        raise UnsupportedModel(f"ollama:{name} has {len(weights)} files of weights; befit reads models that have one.")
    digest = _DIGEST.fullmatch(str(weights[0].get("digest")))
    size = weights[0].get("size")
    if digest is None or not isinstance(size, int):
        raise CorruptFile(f"{manifest} names weights {weights[0].get('digest')!r} of size {size!r}.")
    path = folder() / "blobs" / f"sha256-{digest[1]}"
    found = path.stat().st_size if path.is_file() else None
    if found != size:
        state = "is missing" if found is None else f"has {found:,} bytes instead of {size:,}"
        raise CorruptFile(f"{path} of ollama:{name} {state}; fetch it again with: ollama pull {name}")
    return OllamaModel(name, path, size, digest[1])
