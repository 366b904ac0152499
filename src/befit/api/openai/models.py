"""`GET /v1/models` and `GET /v1/models/{id}`: the served name, its aliases and the context length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from befit.api.service import Service


def list_models(services: Sequence[Service]) -> dict[str, Any]:
    """The list of names; a model may have several."""
    return {"object": "list", "data": [describe_model(service, name) for service in services for name in service.names]}


def describe_model(service: Service, name: str) -> dict[str, Any]:
    """One entry."""
    return {
        "id": service.model_name(name),
        "object": "model",
        "created": service.created,
        "owned_by": "befit",
        "root": service.names[0],
        "parent": None,
        "max_model_len": service.ctx,
    }
