"""The routes of Ollama's protocol."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

import befit
from befit.api.answers import json_response
from befit.api.body import read_body
from befit.api.models.fleet import Fleet
from befit.api.ollama import models
from befit.api.ollama.chat import chat
from befit.api.ollama.embed import embed, embeddings
from befit.api.ollama.generate import generate
from befit.api.ollama.types import ShowRequest
from befit.api.openai.request_body import parse


def add_ollama_routes(app: FastAPI, fleet: Fleet) -> None:
    """Add them."""

    @app.post("/api/generate", tags=["ollama"])
    async def post_generate(request: Request) -> Response:
        """Continue a prompt, or fill in before a suffix; lines of JSON unless `stream` is false."""
        return await generate(fleet, request)

    @app.post("/api/chat", tags=["ollama"])
    async def post_chat(request: Request) -> Response:
        """Answer a conversation; lines of JSON unless `stream` is false."""
        return await chat(fleet, request)

    @app.post("/api/embed", tags=["ollama"])
    async def post_embed(request: Request) -> Response:
        """Texts as vectors."""
        return await embed(fleet, request)

    @app.post("/api/embeddings", tags=["ollama"])
    async def post_embeddings(request: Request) -> Response:
        """One text as a vector."""
        return await embeddings(fleet, request)

    @app.get("/api/tags", tags=["ollama"])
    async def get_tags() -> Response:
        """The models served."""
        return json_response(models.tags(fleet.services))

    @app.get("/api/ps", tags=["ollama"])
    async def get_running() -> Response:
        """The models in memory."""
        return json_response(models.running(fleet.services))

    @app.post("/api/show", tags=["ollama"])
    async def post_show(request: Request) -> Response:
        """One model: what it is and what it can do."""
        asked = parse(ShowRequest, await read_body(request)).asked
        return json_response(models.show(await fleet.service(asked), asked))

    @app.get("/api/version", tags=["ollama"])
    async def get_version() -> Response:
        """The version of Ollama whose requests are understood; `befit` is this server's own."""
        return json_response({"version": models.OLLAMA_VERSION, "befit": befit.__version__})
