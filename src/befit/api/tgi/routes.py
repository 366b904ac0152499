"""The routes of TGI's protocol."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from befit.api.answers import json_response
from befit.api.body import read_body
from befit.api.models.fleet import Fleet
from befit.api.openai.chat import create_chat_completion
from befit.api.openai.completions import create_completion
from befit.api.openai.request_body import json_object, parse
from befit.api.tgi.generate import generate
from befit.api.tgi.info import info
from befit.api.tgi.tokens import chat_tokenize
from befit.api.tgi.types import GenerateRequest


def add_tgi_routes(app: FastAPI, fleet: Fleet) -> None:
    """Add them."""

    @app.post("/generate", tags=["tgi"])
    async def whole(request: Request) -> Response:
        """Continue a prompt."""
        return await generate(fleet, request, _request(await read_body(request), stream=False))

    @app.post("/generate_stream", tags=["tgi"])
    async def stream(request: Request) -> Response:
        """Continue a prompt, an event a token."""
        return await generate(fleet, request, _request(await read_body(request), stream=True))

    @app.post("/", tags=["tgi"])
    async def either(request: Request) -> Response:
        """Continue a prompt, whole or streamed; unless told otherwise, the prompt is part of the text."""
        return await _either(fleet, request, await read_body(request))

    @app.post("/invocations", tags=["tgi"])
    async def invocations(request: Request) -> Response:
        """A chat, a completion or a prompt to continue, told apart by its fields."""
        fields = json_object(await read_body(request))
        if "messages" in fields:
            return await create_chat_completion(fleet, request)
        if "prompt" in fields:
            return await create_completion(fleet, request)
        return await _either(fleet, request, await read_body(request))

    @app.post("/chat_tokenize", tags=["tgi"])
    async def tokens_of_chat(request: Request) -> Response:
        """A conversation as its prompt, and the prompt's tokens."""
        body = await read_body(request)
        return await chat_tokenize(fleet, json_object(body), len(body))

    @app.get("/info", tags=["tgi"])
    async def describe() -> Response:
        """What is served, and what one may ask of it."""
        return json_response(info(await fleet.service()))


async def _either(fleet: Fleet, http: Request, body: bytes) -> Response:
    request = _request(body)
    if request.asked.return_full_text is None:
        request.asked.return_full_text = True
    return await generate(fleet, http, request, listed=not request.stream)


def _request(body: bytes, *, stream: bool | None = None) -> GenerateRequest:
    """The request in a body; stream: what the route says about it."""
    request = parse(GenerateRequest, body)
    if stream is not None and stream != request.stream:
        request.stream = stream
        request.check()
    return request
