"""The OpenAPI description, with what routes parse and answer themselves: bodies, examples, errors.

It is built when first asked for. Examples stand in `x-codeSamples` too, as commands for a shell, where tools that show
OpenAPI look for them.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from befit.api.anthropic.types import CountRequest, MessagesRequest
from befit.api.description.answers import answer
from befit.api.description.examples import BODIES as EXAMPLES
from befit.api.description.examples import DELETED, FURTHER, curl
from befit.api.description.shapes import ERRORS, error_schema
from befit.api.guard.middleware import is_open
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
SCHEMAS: dict[str, type[BaseModel]] = {
    **BODIES,
    "/chat/completions": ChatRequest,
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
    "/api/pull": ollama.PullRequest,
    "/api/copy": ollama.CopyRequest,
    "/api/create": ollama.CreateRequest,
    "/": GenerateRequest,
    "/generate": GenerateRequest,
    "/generate_stream": GenerateRequest,
    "/invocations": GenerateRequest,
    "/chat_tokenize": ChatRequest,
}
_DELETED: dict[str, type[BaseModel]] = {"/api/delete": ollama.ModelRequest}
_ABOUT = (
    """A field is honoured, or the answer is an error that names it. `security` applies where the server has keys."""
)
_REFERENCE = "#/components/schemas/{model}"


def openapi(app: FastAPI) -> dict[str, Any]:
    """FastAPI's description of the routes, and the schemas of their JSON bodies."""
    if app.openapi_schema is None:
        schema = get_openapi(title=app.title, version=app.version, description=_ABOUT, routes=app.routes)
        _, definitions = models_json_schema(
            [(model, "validation") for model in dict.fromkeys([*SCHEMAS.values(), *_DELETED.values()])],
            ref_template=_REFERENCE,
        )
        # FastAPI's own schemas are of the 422 that it would answer if it parsed bodies.
        schema["components"] = {
            "schemas": {**definitions["$defs"], **ERRORS},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        }
        for path, methods in schema["paths"].items():
            for method, operation in methods.items():
                _complete(path, method, operation)
        app.openapi_schema = schema
    return app.openapi_schema


def _complete(path: str, method: str, operation: dict[str, Any]) -> None:
    responses = operation["responses"]
    responses.pop("422", None)
    responses["200"] = answer(method, path)
    error = {"$ref": _REFERENCE.format(model=error_schema(operation.get("tags", [])))}
    responses["default"] = {"description": "What was wrong", "content": {"application/json": {"schema": error}}}
    if not is_open(method.upper(), path):
        operation["security"] = [{"key": []}, {}]
    body = {"post": EXAMPLES, "delete": DELETED}.get(method, {}).get(path)
    parsed = {"post": SCHEMAS, "delete": _DELETED}.get(method, {}).get(path)
    if parsed is not None:
        content: dict[str, Any] = {"schema": {"$ref": _REFERENCE.format(model=parsed.__name__)}}
        if body is not None:
            content["example"] = body
        operation["requestBody"] = {"required": True, "content": {"application/json": content}}
    if body is not None or "{" not in path:
        named = {"": body, **FURTHER.get(path, {})} if method == "post" else {"": body}
        operation["x-codeSamples"] = [
            {"lang": "Shell", "label": title or "curl", "source": curl(method, path, one)}
            for title, one in named.items()
        ]
