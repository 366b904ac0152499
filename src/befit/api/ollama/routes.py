"""The routes of Ollama's protocol."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

import befit
from befit import store
from befit.api.answers import json_response
from befit.api.body import read_body
from befit.api.models.fleet import Fleet
from befit.api.models.member import Member
from befit.api.ollama import manage, models
from befit.api.ollama.chat import chat
from befit.api.ollama.embed import embed, embeddings
from befit.api.ollama.generate import generate
from befit.api.ollama.types import ShowRequest
from befit.api.openai.request_body import parse


def _tags(fleet: Fleet) -> dict[str, Any]:
    return models.tags(fleet.members, fleet.loader.rows() if fleet.loader is not None else ())


def _shown(member: Member, asked: str | None) -> dict[str, Any]:
    service = member.service
    if service is not None:
        facts = models.facts_of(service, member.path)
    else:
        facts = models.read_facts(member.path, store.settings(member.path))
    return models.show(facts, asked if asked in member.names else member.name)


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
        return json_response(await asyncio.to_thread(_tags, fleet))

    @app.get("/api/ps", tags=["ollama"])
    async def get_running() -> Response:
        """The models in memory."""
        return json_response(models.running(fleet.members))

    @app.post("/api/show", tags=["ollama"])
    async def post_show(request: Request) -> Response:
        """One model: what it is and what it can do."""
        asked = parse(ShowRequest, await read_body(request)).asked
        member = await fleet.member(asked)
        return json_response(await asyncio.to_thread(_shown, member, asked))

    @app.post("/api/pull", tags=["ollama"])
    async def post_pull(request: Request) -> Response:
        """Fetch a model; lines of JSON say how far it is."""
        return await manage.pull(fleet, request)

    @app.delete("/api/delete", tags=["ollama"])
    async def delete(request: Request) -> Response:
        """Remove a stored model."""
        return await manage.delete(fleet, request)

    @app.post("/api/copy", tags=["ollama"])
    async def post_copy(request: Request) -> Response:
        """Store a model under a further name."""
        return await manage.copy(fleet, request)

    @app.post("/api/create", tags=["ollama"])
    async def post_create(request: Request) -> Response:
        """Make a model: with settings of its own, of fewer bits, or from uploaded files."""
        return await manage.create(fleet, request)

    @app.head("/api/blobs/{digest}", tags=["ollama"])
    async def head_blob(digest: str) -> Response:
        """Whether a file has been uploaded."""
        return await manage.has_blob(fleet, digest)

    @app.post("/api/blobs/{digest}", tags=["ollama"])
    async def post_blob(request: Request, digest: str) -> Response:
        """Upload a file, to make a model from."""
        return await manage.put_blob(fleet, digest, request)

    @app.get("/api/version", tags=["ollama"])
    async def get_version() -> Response:
        """The version of Ollama whose requests are understood; `befit` is this server's own."""
        return json_response({"version": models.OLLAMA_VERSION, "befit": befit.__version__})
