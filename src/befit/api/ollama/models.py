"""What is served, in the shapes of `/api/tags`, `/api/ps` and `/api/show`."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from befit.api.service import Service

OLLAMA_VERSION = "0.12.0"
"""Clients ask for a version to know what they may send: fields of this one are known here."""

_FOREVER = timedelta(days=365 * 100)


def tags(services: Sequence[Service]) -> dict[str, Any]:
    """The served names; a model may have several."""
    return {"models": [_entry(service, name) for service in services for name in service.names]}


def running(services: Sequence[Service]) -> dict[str, Any]:
    """The models in memory."""
    until = (datetime.now(UTC) + _FOREVER).isoformat()
    return {
        "models": [
            {**_entry(service, name), "size_vram": 0, "expires_at": until, "context_length": service.ctx}
            for service in services
            for name in service.names
        ]
    }


def show(service: Service, name: str | None) -> dict[str, Any]:
    """One model."""
    served = service.model_name(name)
    model = service.engine.model
    listed = {key: value for key, value in model.metadata.items() if not isinstance(value, list | tuple | bytes)}
    architecture = str(model.metadata.get("general.architecture", model.program.family))
    info = {str(key): value for key, value in listed.items() if isinstance(value, str | int | float | bool)}
    info[f"{architecture}.context_length"] = service.ctx
    info["general.architecture"] = architecture
    capabilities = ["completion", "tools", "embedding"]
    if service.fim is not None:
        capabilities.append("insert")
    if service.reasoning is not None:
        capabilities.append("thinking")
    # Editors take a model for one that fills in the middle when its template, in Ollama's language, has a suffix.
    template = service.template.text + ("{{ .Suffix }}" if service.fim is not None else "")
    return {
        "modelfile": f"FROM {served}\n",
        "parameters": f"num_ctx {service.ctx}",
        "template": template,
        "license": str(model.metadata.get("general.license", "")),
        "details": _details(service),
        "model_info": info,
        "capabilities": capabilities,
        "modified_at": _modified(service),
    }


def _entry(service: Service, name: str) -> dict[str, Any]:
    return {
        "name": name,
        "model": name,
        "modified_at": _modified(service),
        "size": _size(service),
        "digest": hashlib.sha256(f"{service.fingerprint}{service.engine.model.path}".encode()).hexdigest(),
        "details": _details(service),
    }


def _details(service: Service) -> dict[str, Any]:
    model = service.engine.model
    family = model.program.family
    return {
        "parent_model": "",
        "format": "gguf" if model.path.suffix == ".gguf" else "folder",
        "family": family,
        "families": [family],
        "parameter_size": _parameters(model.parameters),
        "quantization_level": model.quantisation,
    }


def _parameters(count: int) -> str:
    return f"{count / 1e9:.1f}B" if count >= 1e9 else f"{count / 1e6:.2f}M"


def _size(service: Service) -> int:
    path = service.engine.model.path
    if path.is_dir():
        return sum(one.stat().st_size for one in path.iterdir() if one.is_file())
    return path.stat().st_size if path.exists() else 0


def _modified(service: Service) -> str:
    path = service.engine.model.path
    moment = path.stat().st_mtime if path.exists() else service.created
    return datetime.fromtimestamp(moment, UTC).isoformat()
