"""The HTTP application: routes, request ids and error shapes put together around one engine."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

import befit
from befit.api.answers import json_response
from befit.api.anthropic import routes as anthropic
from befit.api.body import read_body
from befit.api.description.openapi import openapi
from befit.api.generation import ClientGoneError
from befit.api.guard.middleware import Guard, Rules
from befit.api.llamacpp.infill import create_completion as create_llamacpp_completion
from befit.api.llamacpp.infill import create_infill
from befit.api.llamacpp.props import apply_template, properties
from befit.api.llamacpp.slots import slots
from befit.api.metrics import CONTENT_TYPE, Metrics, render
from befit.api.middleware import RequestScope
from befit.api.models.fleet import Fleet, Holding
from befit.api.models.member import Loaded, Member
from befit.api.ollama.routes import add_ollama_routes
from befit.api.openai.chat import create_chat_completion
from befit.api.openai.completions import create_completion
from befit.api.openai.embeddings import create_embeddings
from befit.api.openai.models import describe_model, list_models
from befit.api.openai.request_body import json_object
from befit.api.openai.responses.routes import add_response_routes
from befit.api.openai.tokens import detokenize, tokenize
from befit.api.page.routes import add_page_routes
from befit.api.problem import Problem
from befit.api.service import Service
from befit.api.shapes import error_answer
from befit.api.tgi.routes import add_tgi_routes
from befit.api.tgi.tokens import tokenize as tokenize_as_tgi
from befit.api.tracing import Tracing
from befit.errors import BefitError, EngineDead, Overloaded

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor

    from befit.api.chat import ChatTemplate
    from befit.engine.async_engine import AsyncEngine


def create_app(
    engine: AsyncEngine,
    *,
    served_name: str,
    chat_template: ChatTemplate | None = None,
    aliases: Sequence[str] = (),
    tool_parser: str | None = None,
    rules: Rules | None = None,
    origins: Sequence[str] = (),
    spans: SpanProcessor | None = None,
) -> FastAPI:
    """An ASGI application that serves `engine`, started and stopped by the caller, under `served_name` and `aliases`.

    chat_template: the model's own unless given. tool_parser: the format of tool calls, of
    `befit.api.tools.formats.NAMES`. rules: who may ask, and how much. origins: of pages that may
    ask. spans: gets those of traces. The engine's observer becomes the one behind `/metrics`.
    """
    if chat_template is None:
        from befit.api.chat import ChatTemplate

        model = engine.model
        chat_template = ChatTemplate.from_metadata(model.metadata, model.tokenizer, beside=model.path)
    metrics = Metrics(engine.stats, served_name)
    engine.observer = metrics
    names = (served_name, *aliases)
    service = Service(engine, names, chat_template, metrics, befit.__version__, tool_parser=tool_parser)
    member = Member(names, engine.model.name, engine.model.path, default=None, loaded=Loaded(service))
    return create_fleet_app(Fleet([member]), rules=rules, origins=origins, spans=spans)


def create_fleet_app(
    fleet: Fleet, *, rules: Rules | None = None, origins: Sequence[str] = (), spans: SpanProcessor | None = None
) -> FastAPI:
    """An ASGI application that serves the models of `fleet`; the other arguments are those of `create_app`."""
    app = FastAPI(title="befit", version=befit.__version__, docs_url=None, redoc_url=None)
    if fleet.loader is not None:
        app.add_middleware(Holding, fleet=fleet)
    if rules is not None:
        app.add_middleware(Guard, rules=rules)
    if origins:
        allowed = ["authorization", "content-type", "x-api-key", "x-request-id", "anthropic-version"]
        app.add_middleware(
            CORSMiddleware, allow_origins=list(origins), allow_methods=["GET", "POST", "DELETE"], allow_headers=allowed
        )
    if spans is not None:
        app.add_middleware(Tracing, processor=spans)
    app.add_middleware(RequestScope, on_error=lambda error, path: error_answer(Problem.of(error), path))
    app.add_exception_handler(BefitError, _on_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(ClientGoneError, _on_client_gone)
    app.state.fleet = fleet
    _add_openai_routes(app, fleet)
    _add_llamacpp_routes(app, fleet)
    add_response_routes(app, fleet)
    add_tgi_routes(app, fleet)
    anthropic.add_anthropic_routes(app, fleet)
    add_ollama_routes(app, fleet)
    _add_server_routes(app, fleet)
    add_page_routes(app, fleet)
    app.openapi = lambda: openapi(app)  # type: ignore[method-assign]
    return app


def _add_openai_routes(app: FastAPI, fleet: Fleet) -> None:
    @app.get("/models", tags=["llama.cpp"])
    @app.get("/v1/models", tags=["openai"])
    async def models(request: Request) -> Response:
        """The models served, with their context lengths."""
        listed = anthropic.models if anthropic.VERSION_HEADER in request.headers else list_models
        return json_response(listed(fleet.members))

    @app.get("/v1/models/{name:path}", tags=["openai"])
    async def model(request: Request, name: str) -> Response:
        """One model served."""
        describe = anthropic.describe_model if anthropic.VERSION_HEADER in request.headers else describe_model
        return json_response(describe(await fleet.member(name), name))

    @app.post("/v1/completions", tags=["openai"])
    async def completions(request: Request) -> Response:
        """Continue one or many prompts."""
        return await create_completion(fleet, request)

    @app.post("/v1/embeddings", tags=["openai"])
    async def embeddings(request: Request) -> Response:
        """Texts as vectors."""
        return await create_embeddings(fleet, request)

    @app.post("/tokenize", tags=["tokens"])
    async def to_tokens(request: Request) -> Response:
        """Token ids of a text or of a chat. `inputs` is TGI's, whose answer says where each token lies."""
        body = await read_body(request)
        if b'"inputs"' in body and "inputs" in json_object(body):
            return await tokenize_as_tgi(fleet, body)
        return await tokenize(fleet, request)

    @app.post("/detokenize", tags=["tokens"])
    async def to_text(request: Request) -> Response:
        """The text of token ids."""
        return await detokenize(fleet, request)

    @app.post("/chat/completions", tags=["llama.cpp"])
    @app.post("/v1/chat/completions", tags=["openai"])
    async def chat_completions(request: Request) -> Response:
        """Answer a conversation."""
        return await create_chat_completion(fleet, request)


def _add_llamacpp_routes(app: FastAPI, fleet: Fleet) -> None:
    @app.post("/infill", tags=["llama.cpp"])
    async def infill(request: Request) -> Response:
        """Fill in between a prefix and a suffix."""
        return await create_infill(fleet, request)

    @app.post("/completion", tags=["llama.cpp"])
    async def completion(request: Request) -> Response:
        """Continue a prompt."""
        return await create_llamacpp_completion(fleet, request)

    @app.get("/props", tags=["llama.cpp"])
    async def props() -> Response:
        """What the server is set to: context, sampling defaults, the chat template and where it is from."""
        return json_response(properties(await fleet.service()))

    @app.get("/slots", tags=["llama.cpp"])
    async def show_slots(request: Request) -> Response:
        """A slot for each sequence that may run; with `fail_on_no_slot=1`, 503 when none is free."""
        return slots(await fleet.service(), request.query_params.get("fail_on_no_slot"))

    @app.post("/apply-template", tags=["llama.cpp"])
    async def template(request: Request) -> Response:
        """A conversation as the prompt that the model would see."""
        return await apply_template(fleet, request)


def _add_server_routes(app: FastAPI, fleet: Fleet) -> None:
    @app.get("/v1/health", tags=["llama.cpp"])
    @app.get("/health", tags=["server"])
    async def health() -> Response:
        """200 while requests are admitted; 503 when the engine is dead or the server is draining."""
        if not fleet.alive:
            return error_answer(Problem(503, "The engine is not running.", EngineDead.code), "/health")
        if fleet.draining:
            return error_answer(Problem(503, "The server is draining.", Overloaded.code), "/health")
        return json_response({"status": "ok"})

    @app.get("/version", tags=["server"])
    async def show_version() -> Response:
        """The version of befit."""
        return json_response({"version": befit.__version__})

    @app.get("/metrics", tags=["server"])
    async def metrics() -> Response:
        """Prometheus metrics."""
        return Response(
            await asyncio.to_thread(render, [service.metrics for service in fleet.services]), media_type=CONTENT_TYPE
        )


async def _on_error(request: Request, error: Exception) -> Response:
    return error_answer(Problem.of(error), request.url.path)


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = request.url.path
    response = error_answer(Problem.of_route(error, request.method, path), path)
    response.headers.update(error.headers or {})
    return response


async def _on_client_gone(request: Request, error: Exception) -> Response:
    return Response(status_code=499)
