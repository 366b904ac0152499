"""Errors in TGI's shape: `{"error": …, "error_type": …}`, with the statuses that its clients know."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from befit.api.answers import dumps, json_response
from befit.api.problem import Problem
from befit.errors import EngineDead, Overloaded, TemplateError

PATHS = frozenset({"/", "/chat_tokenize", "/generate", "/generate_stream", "/info", "/invocations"})

_BY_CODE = {
    Overloaded.code: (429, "overloaded"),
    EngineDead.code: (503, "healthcheck"),
    TemplateError.code: (422, "template_error"),
}


def status_and_type(problem: Problem) -> tuple[int, str]:
    """A problem's HTTP status and `error_type` at TGI: 422 for what a request has wrong, 424 for what failed on it."""
    if problem.code in _BY_CODE:
        return _BY_CODE[problem.code]
    if problem.status == 400:
        return 422, "validation"
    if problem.status >= 500:
        return 424, "generation"
    return problem.status, "overloaded" if problem.status == 429 else "validation"


def error_object(problem: Problem) -> dict[str, Any]:
    """The body of an error answer, and what a stream carries when it fails midway."""
    kind = status_and_type(problem)[1]
    message = f"Input validation error: {problem.message}" if kind == "validation" else problem.message
    return {"error": message, "error_type": kind}


def error_answer(problem: Problem) -> Response:
    """The answer to a request that failed before its answer began."""
    return json_response(error_object(problem), status_and_type(problem)[0], problem.headers)


def error_event(error: BaseException) -> bytes:
    """The event that ends a stream which failed after it began."""
    return f"data: {dumps(error_object(Problem.of(error)))}\n\n".encode("ascii")
