"""Roles of chat messages. Their contents are the chat template's matter (`api/chat_messages.py`)."""

from __future__ import annotations

from typing import Any

from befit.errors import InvalidRequest

_ROLES = ("system", "user", "assistant", "tool", "function")


def known_roles(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages with `developer`, which OpenAI's newer models call it, as `system`. Raises for an unknown role."""
    return [_known(position, message) for position, message in enumerate(messages)]


def _known(position: int, message: dict[str, Any]) -> dict[str, Any]:
    role = message.get("role")
    if role == "developer":
        return {**message, "role": "system"}
    if role not in _ROLES:
        raise InvalidRequest(
            f"messages[{position}].role is {role!r}; use one of developer, {', '.join(_ROLES)}.", "messages"
        )
    return message
