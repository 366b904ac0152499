"""The routes of `/v1/responses`, over one store of what was answered."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response

from befit.api.answers import json_response
from befit.api.models.fleet import Fleet
from befit.api.openai.responses.create import count_input_tokens, create_response
from befit.api.openai.responses.store import ResponseStore
from befit.api.stream import Detached, EventStream
from befit.errors import InvalidRequest

if TYPE_CHECKING:
    from fastapi import FastAPI

MAX_LISTED = 100


def add_response_routes(app: FastAPI, fleet: Fleet) -> None:
    """Give an application the routes, with a store of its own."""
    store = ResponseStore()

    @app.post("/v1/responses", tags=["openai"])
    async def responses(request: Request) -> Response:
        """Answer a conversation, and keep it to be gone on with."""
        return await create_response(fleet, store, request)

    @app.post("/v1/responses/input_tokens", tags=["openai"])
    async def input_tokens(request: Request) -> Response:
        """The number of tokens of a request's prompt."""
        return await count_input_tokens(fleet, store, request)

    @app.get("/v1/responses/{name}", tags=["openai"])
    async def retrieve(name: str, request: Request) -> Response:
        """A response as it is now, or the events of one that was made in the background."""
        return _retrieve(store, name, dict(request.query_params))

    @app.delete("/v1/responses/{name}", tags=["openai"])
    async def delete(name: str) -> Response:
        """Forget a response, and end it if it runs."""
        kept = store.delete(name)
        if kept.task is not None:
            kept.task.cancel()
        return json_response({"id": kept.id, "object": "response", "deleted": True})

    @app.post("/v1/responses/{name}/cancel", tags=["openai"])
    async def cancel(name: str) -> Response:
        """End a response that runs in the background."""
        kept = store.get(name)
        if kept.task is None:
            raise InvalidRequest(f"Response {kept.id!r} does not run in the background; close its connection instead.")
        kept.task.cancel()
        await asyncio.gather(kept.task, return_exceptions=True)
        return json_response(kept.body)

    @app.get("/v1/responses/{name}/input_items", tags=["openai"])
    async def input_items(name: str, request: Request) -> Response:
        """The items that the request of a response brought."""
        return _input_items(store, name, dict(request.query_params))


def _retrieve(store: ResponseStore, name: str, query: dict[str, str]) -> Response:
    kept = store.get(name)
    if query.get("stream", "false").lower() not in ("true", "1"):
        return json_response(kept.body)
    if kept.log is None:
        raise InvalidRequest(
            f"Response {kept.id!r} has no events to stream; that needs background and stream when it is made.", "stream"
        )
    start = _number(query, "starting_after", -1, -1, 2**31) + 1
    return EventStream(kept.log.read(start), Detached())


def _input_items(store: ResponseStore, name: str, query: dict[str, str]) -> Response:
    items = store.get(name).input
    order = query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise InvalidRequest(f"order is {order[:60]!r}; it must be asc or desc.", "order")
    if order == "desc":
        items = items[::-1]
    limit = _number(query, "limit", 20, 1, MAX_LISTED)
    after = query.get("after")
    if after is not None:
        at = next((at for at, item in enumerate(items) if item["id"] == after), None)
        if at is None:
            raise InvalidRequest(f"after is {after[:80]!r}, which is no item of this response.", "after")
        items = items[at + 1 :]
    page = items[:limit]
    answer: dict[str, Any] = {
        "object": "list",
        "data": page,
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
        "has_more": len(items) > limit,
    }
    return json_response(answer)


def _number(query: dict[str, str], name: str, default: int, low: int, high: int) -> int:
    text = query.get(name)
    if text is None:
        return default
    try:
        number = int(text)
    except ValueError:
        number = low - 1
    if not low <= number <= high:
        raise InvalidRequest(f"{name} is {text[:60]!r}; it must be a number from {low} to {high}.", name)
    return number
