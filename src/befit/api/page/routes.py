"""`GET /` and what its meters read, `GET /stats`; `GET /docs`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from starlette.responses import Response

from befit.api.answers import json_response
from befit.api.models.fleet import Fleet
from befit.api.page.document import page_answer
from befit.api.service import Service


def add_page_routes(app: FastAPI, fleet: Fleet) -> None:
    """Add them."""

    @app.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
    async def playground() -> Response:
        """A page to try the server with. Clients of Ollama and TGI ask for it to see whether the server is there."""
        return page_answer("index.html")

    @app.api_route("/docs", methods=["GET", "HEAD"], include_in_schema=False)
    async def description() -> Response:
        """A page that shows `/openapi.json`."""
        return page_answer("docs.html")

    @app.get("/stats", tags=["server"])
    async def show_stats() -> Response:
        """What the server is doing now: a small part of `/metrics`, as JSON."""
        return json_response(stats(fleet.services))


def stats(services: Sequence[Service]) -> dict[str, Any]:
    """Of all models in memory together. `time` is of a monotonic clock, in seconds: two readings give rates."""
    engines = [service.engine.stats() for service in services]
    first = [service.metrics.first_token_seconds for service in services]
    return {
        "time": time.monotonic(),
        "running": sum(engine.running for engine in engines),
        "waiting": sum(engine.waiting for engine in engines),
        "kv_usage": max((engine.kv_usage for engine in engines), default=0.0),
        "prompt_tokens_total": sum(engine.prompt_tokens_total for engine in engines),
        "cached_tokens_total": sum(engine.cached_tokens_total for engine in engines),
        "output_tokens_total": sum(engine.output_tokens_total for engine in engines),
        "time_to_first_token": {
            "count": sum(sum(each.counts) for each in first),
            "sum": sum(each.total for each in first),
        },
    }
