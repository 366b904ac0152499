"""`GET /` and what its meters read, `GET /stats`; `GET /docs`."""

from __future__ import annotations

import time
from typing import Any

from fastapi import FastAPI
from starlette.responses import Response

from befit.api.answers import json_response
from befit.api.page.document import page_answer
from befit.api.service import Service


def add_page_routes(app: FastAPI, service: Service) -> None:
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
        return json_response(stats(service))


def stats(service: Service) -> dict[str, Any]:
    """`time` is of a monotonic clock, in seconds: two readings give rates."""
    engine = service.engine.stats()
    first = service.metrics.first_token_seconds
    return {
        "time": time.monotonic(),
        "running": engine.running,
        "waiting": engine.waiting,
        "kv_usage": engine.kv_usage,
        "prompt_tokens_total": engine.prompt_tokens_total,
        "cached_tokens_total": engine.cached_tokens_total,
        "output_tokens_total": engine.output_tokens_total,
        "time_to_first_token": {"count": sum(first.counts), "sum": first.total},
    }
