"""`GET /v1/models` and `GET /v1/models/{id}`: the served name, its aliases and the context length."""

from __future__ import annotations

from typing import Any

from befit.api.service import Service


def list_models(service: Service) -> dict[str, Any]:
    """The list of names; each is the same model."""
    return {"object": "list", "data": [describe_model(service, name) for name in service.names]}


def describe_model(service: Service, name: str) -> dict[str, Any]:
    """One entry. Raises ModelNotFound for a name that is not served."""
    return {
        "id": service.model_name(name),
        "object": "model",
        "created": service.created,
        "owned_by": "befit",
        "root": service.names[0],
        "parent": None,
        "max_model_len": service.ctx,
    }
