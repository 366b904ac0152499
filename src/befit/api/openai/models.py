"""`GET /v1/models` and `GET /v1/models/{id}`: the served name, its aliases and the context length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from befit.api.models.member import Member


def list_models(members: Sequence[Member]) -> dict[str, Any]:
    """The list of names; a model may have several."""
    return {"object": "list", "data": [describe_model(member, name) for member in members for name in member.names]}


def describe_model(member: Member, name: str) -> dict[str, Any]:
    """One entry. The context of a model that is not in memory is not known yet."""
    return {
        "id": name if name in member.names else member.name,
        "object": "model",
        "created": member.created,
        "owned_by": "befit",
        "root": member.name,
        "parent": None,
        "max_model_len": member.service.ctx if member.service is not None else None,
    }
