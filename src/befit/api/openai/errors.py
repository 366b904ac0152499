"""Errors in OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from befit.api.answers import json_response
from befit.api.problem import Problem

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    405: "invalid_request_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
    503: "overloaded_error",
}


def error_object(problem: Problem) -> dict[str, Any]:
    """The body of an error answer; also what a stream carries when it fails midway."""
    kind = _TYPES.get(problem.status, "server_error")
    return {"error": {"message": problem.message, "type": kind, "param": problem.param, "code": problem.code}}


def error_answer(problem: Problem) -> Response:
    """The answer to a request that failed before its answer began."""
    return json_response(error_object(problem), problem.status, problem.headers)
