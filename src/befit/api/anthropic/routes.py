"""The routes of Anthropic's protocol; its list of models shares a path with OpenAI's (see `models`)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from befit.api.anthropic.messages import count_tokens, create_message
from befit.api.models.fleet import Fleet
from befit.api.service import Service

VERSION_HEADER = "anthropic-version"
"""Its clients send it with every request."""


def add_anthropic_routes(app: FastAPI, fleet: Fleet) -> None:
    """Add them."""

    @app.post("/v1/messages", tags=["anthropic"])
    async def messages(request: Request) -> Response:
        """Answer a conversation."""
        return await create_message(fleet, request)

    @app.post("/v1/messages/count_tokens", tags=["anthropic"])
    async def tokens(request: Request) -> Response:
        """How many tokens the prompt would have."""
        return await count_tokens(fleet, request)


def models(services: Sequence[Service]) -> dict[str, Any]:
    """The models served, as Anthropic lists them."""
    listed = [describe_model(service, name) for service in services for name in service.names]
    return {"data": listed, "has_more": False, "first_id": listed[0]["id"], "last_id": listed[-1]["id"]}


def describe_model(service: Service, name: str) -> dict[str, Any]:
    """One model."""
    created = datetime.fromtimestamp(service.created, UTC).isoformat().replace("+00:00", "Z")
    return {
        "type": "model",
        "id": service.model_name(name),
        "display_name": service.names[0],
        "created_at": created,
        "max_input_tokens": service.ctx,
        "max_tokens": service.ctx,
    }
