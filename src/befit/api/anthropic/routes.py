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
from befit.api.models.member import Member

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


def models(members: Sequence[Member]) -> dict[str, Any]:
    """The models served, as Anthropic lists them."""
    listed = [describe_model(member, name) for member in members for name in member.names]
    return {"data": listed, "has_more": False, "first_id": listed[0]["id"], "last_id": listed[-1]["id"]}


def describe_model(member: Member, name: str) -> dict[str, Any]:
    """One model."""
    ctx = member.service.ctx if member.service is not None else None
    created = datetime.fromtimestamp(member.created, UTC).isoformat().replace("+00:00", "Z")
    return {
        "type": "model",
        "id": name if name in member.names else member.name,
        "display_name": member.name,
        "created_at": created,
        "max_input_tokens": ctx,
        "max_tokens": ctx,
    }
