"""Errors in Anthropic's shape: `{"type": "error", "error": {"type", "message"}, "request_id"}`."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from befit.api.answers import dumps, json_response
from befit.api.middleware import request_id
from befit.api.problem import Problem

PREFIX = "/v1/messages"

_OVERLOADED = 529
_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    413: "request_too_large",
    429: "rate_limit_error",
    _OVERLOADED: "overloaded_error",
}


def _status(problem: Problem) -> int:
    """Its clients know 529, and wait, where others have 503."""
    return _OVERLOADED if problem.status == 503 else problem.status


def error_object(problem: Problem) -> dict[str, Any]:
    """The body of an error answer, and what a stream carries when it fails midway."""
    kind = _TYPES.get(_status(problem), "api_error")
    error = {"type": kind, "message": problem.message}
    return {"type": "error", "error": error, "request_id": request_id.get()}


def error_answer(problem: Problem) -> Response:
    """The answer to a request that failed before its answer began."""
    return json_response(error_object(problem), _status(problem), problem.headers)


def error_event(error: BaseException) -> bytes:
    """The event that ends a stream which failed after it began."""
    return f"event: error\ndata: {dumps(error_object(Problem.of(error)))}\n\n".encode("ascii")
