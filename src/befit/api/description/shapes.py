"""The bodies of errors, by protocol, as JSON schemas."""

from __future__ import annotations

from typing import Any


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


_TEXT = {"type": "string"}
_TEXT_OR_NULL = {"type": ["string", "null"]}

_OPENAI = _object(error=_object(message=_TEXT, type=_TEXT, param=_TEXT_OR_NULL, code=_TEXT_OR_NULL))

ERRORS: dict[str, dict[str, Any]] = {
    "OpenAIError": _OPENAI,
    "AnthropicError": _object(type={"const": "error"}, error=_object(type=_TEXT, message=_TEXT)),
    "OllamaError": _object(error=_TEXT),
    "TGIError": _object(error=_TEXT, error_type=_TEXT),
}
_BY_TAG = {"anthropic": "AnthropicError", "ollama": "OllamaError", "tgi": "TGIError"}


def error_schema(tags: list[str]) -> str:
    """The name in ERRORS of what a route with these tags answers when it fails."""
    return next((_BY_TAG[tag] for tag in tags if tag in _BY_TAG), "OpenAIError")
