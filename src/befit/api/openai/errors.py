"""Errors in OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`."""

from __future__ import annotations

import json
import logging
from typing import Any

from starlette.responses import Response

from befit.api.middleware import request_id
from befit.errors import BefitError, ModelNotFound

log = logging.getLogger(__name__)

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    405: "invalid_request_error",
    413: "invalid_request_error",
    503: "overloaded_error",
}
RETRY_AFTER_SECONDS = 1


def error_object(status: int, message: str, code: str, param: str | None = None) -> dict[str, Any]:
    """The body of an error answer; also what a stream carries when it fails midway."""
    return {"error": {"message": message, "type": _TYPES.get(status, "server_error"), "param": param, "code": code}}


def describe(error: BaseException) -> tuple[int, dict[str, Any]]:
    """(HTTP status, error object). An error that befit did not raise on purpose is logged and not shown."""
    if isinstance(error, BefitError):
        param = "model" if isinstance(error, ModelNotFound) else getattr(error, "param", None)
        return error.status, error_object(error.status, error.message, error.code, param)
    number = request_id.get()
    log.error("request %s failed", number, exc_info=error)
    message = f"The server failed on this request; its log says why, under request id {number}."
    return 500, error_object(500, message, "internal_error")


def json_response(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON answer in plain ASCII, with its length, so that the connection can be kept."""
    body = json.dumps(content, separators=(",", ":")).encode("ascii")
    return Response(body, status, headers, media_type="application/json")


def error_response(error: BaseException) -> Response:
    """The answer for an error raised before a response began."""
    status, content = describe(error)
    return plain_error(status, content)


def plain_error(status: int, content: dict[str, Any]) -> Response:
    """An error answer; 503 tells the client when to come back."""
    headers = {"retry-after": str(RETRY_AFTER_SECONDS)} if status == 503 else None
    return json_response(content, status, headers)
