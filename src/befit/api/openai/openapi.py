"""The OpenAPI description, with the request bodies that routes parse themselves; built when first asked for."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from befit.api.anthropic.types import CountRequest, MessagesRequest
from befit.api.llamacpp.props import TemplateRequest
from befit.api.llamacpp.types import InfillRequest, RawRequest
from befit.api.ollama import types as ollama
from befit.api.openai.embeddings import EmbeddingRequest
from befit.api.openai.responses.request import ResponseRequest
from befit.api.openai.tokens import DetokenizeRequest, TokenizeRequest
from befit.api.openai.types import ChatRequest, CompletionRequest
from befit.api.tgi.types import GenerateRequest

BODIES: dict[str, type[BaseModel]] = {
    "/v1/completions": CompletionRequest,
    "/v1/chat/completions": ChatRequest,
    "/v1/responses": ResponseRequest,
    "/v1/responses/input_tokens": ResponseRequest,
    "/v1/embeddings": EmbeddingRequest,
    "/tokenize": TokenizeRequest,
    "/detokenize": DetokenizeRequest,
}
_ALL: dict[str, type[BaseModel]] = {
    **BODIES,
    "/infill": InfillRequest,
    "/completion": RawRequest,
    "/apply-template": TemplateRequest,
    "/v1/messages": MessagesRequest,
    "/v1/messages/count_tokens": CountRequest,
    "/api/generate": ollama.GenerateRequest,
    "/api/chat": ollama.ChatRequest,
    "/api/embed": ollama.EmbedRequest,
    "/api/embeddings": ollama.EmbedRequest,
    "/api/show": ollama.ShowRequest,
    "/": GenerateRequest,
    "/generate": GenerateRequest,
    "/generate_stream": GenerateRequest,
    "/chat_tokenize": ChatRequest,
}
_REFERENCE = "#/components/schemas/{model}"


def openapi(app: FastAPI) -> dict[str, Any]:
    """FastAPI's description of the routes, and the schemas of their JSON bodies."""
    if app.openapi_schema is None:
        schema = get_openapi(title=app.title, version=app.version, routes=app.routes)
        _, definitions = models_json_schema(
            [(model, "validation") for model in dict.fromkeys(_ALL.values())], ref_template=_REFERENCE
        )
        schema.setdefault("components", {}).setdefault("schemas", {}).update(definitions["$defs"])
        for path, model in _ALL.items():
            reference = {"$ref": _REFERENCE.format(model=model.__name__)}
            schema["paths"][path]["post"]["requestBody"] = {
                "required": True,
                "content": {"application/json": {"schema": reference}},
            }
        app.openapi_schema = schema
    return app.openapi_schema
