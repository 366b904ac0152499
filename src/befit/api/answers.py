"""Whole JSON answers, which every protocol sends."""

from __future__ import annotations

import json
from typing import Any

from starlette.responses import Response


def dumps(content: Any) -> str:
    """Compact JSON in plain ASCII."""
    return json.dumps(content, separators=(",", ":"))


def json_response(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON answer in plain ASCII, with its length, so that the connection can be kept."""
    return Response(dumps(content).encode("ascii"), status, headers, media_type="application/json")
