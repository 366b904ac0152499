"""The tools of a Responses request: functions, whose fields stand beside `type`, not in `function` as in chats."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from befit.api.tools.request import ToolUse, tool_use
from befit.errors import InvalidRequest, UnsupportedField

_FIELDS = ("name", "description", "parameters", "strict")
_HARMLESS: Mapping[str, tuple[Any, ...]] = {
    "allowed_callers": (["direct"],),
    "async": (False,),
    "defer_loading": (False,),
}
"""Values of other fields that ask for nothing special."""


def response_tool_use(tools: list[dict[str, Any]] | None, choice: Any, parallel: bool | None) -> ToolUse | None:
    """What a request wants of tools, or None when no tool may be called.

    Raises InvalidRequest or UnsupportedField, naming `tools` or `tool_choice`.
    """
    return tool_use([_as_in_chats(at, tool) for at, tool in enumerate(tools or ())], choice, parallel)


def _as_in_chats(at: int, tool: dict[str, Any]) -> dict[str, Any]:
    kind = tool.get("type")
    if kind != "function":
        raise UnsupportedField(
            f"tools[{at}] is of type {str(kind)[:40]!r}; only functions can be called here: leave it out.", "tools"
        )
    if isinstance(tool.get("function"), Mapping):
        raise InvalidRequest(
            f"tools[{at}].function is how chats write tools; here name and parameters stand beside type.", "tools"
        )
    for name, value in tool.items():
        if name not in (*_FIELDS, "type") and value is not None and value not in _HARMLESS.get(name, ()):
            raise UnsupportedField(f"tools[{at}].{name[:60]} ({str(value)[:60]}) is not supported here.", "tools")
    return {"type": "function", "function": {name: tool[name] for name in _FIELDS if tool.get(name) is not None}}
