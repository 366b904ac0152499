"""Errors in Ollama's shape: `{"error": message}`, also as a line of a stream."""

from __future__ import annotations

from starlette.responses import Response

from befit.api.answers import dumps, json_response
from befit.api.problem import Problem

PREFIX = "/api/"


def error_answer(problem: Problem) -> Response:
    """The answer to a request that failed before its answer began."""
    return json_response({"error": problem.message}, problem.status, problem.headers)


def error_line(error: BaseException) -> bytes:
    """The line that ends a stream which failed after it began."""
    return f"{dumps({'error': Problem.of(error).message})}\n".encode("ascii")
