"""`tools`, `tool_choice` and `parallel_tool_calls` of a request, checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from befit.api.tools.formats import Tool
from befit.errors import InvalidRequest, UnsupportedField

MAX_TOOLS = 512
_NO_PARAMETERS: Mapping[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}


@dataclass(frozen=True, slots=True)
class ToolUse:
    """What a request wants of tools. `raw` are the tools as templates get them; a forced call is one of `callable`."""

    raw: list[dict[str, Any]]
    tools: tuple[Tool, ...]
    callable: tuple[Tool, ...]
    mode: Literal["auto", "required"]
    several: bool

    @property
    def names(self) -> frozenset[str]:
        """Names of the tools."""
        return frozenset(tool.name for tool in self.tools)


def tool_use(tools: list[dict[str, Any]] | None, choice: Any, parallel: bool | None) -> ToolUse | None:
    """None when no tool may be called: there are none, or `tool_choice` is "none"."""
    mode, names = _choice(choice)
    if not tools:
        if mode == "required":
            raise InvalidRequest("tool_choice asks for a call, but tools is empty; send the tools.", "tool_choice")
        return None
    if len(tools) > MAX_TOOLS:
        raise InvalidRequest(f"tools holds {len(tools)} tools; at most {MAX_TOOLS} a request.", "tools")
    if mode == "none":
        return None
    checked = tuple(_tool(at, tool) for at, tool in enumerate(tools))
    by_name = {tool.name: tool for tool in checked}
    if len(by_name) < len(checked):
        raise InvalidRequest("tools holds two tools of the same name; give each its own.", "tools")
    for name in names or ():
        if name not in by_name:
            raise InvalidRequest(f"tool_choice names {name!r}, which is none of the tools.", "tool_choice")
    chosen = tuple(by_name[name] for name in names) if names else checked
    raw = [{**tool, "type": "function"} for tool in tools]
    several = parallel is not False and names is None  # one named tool is one call
    return ToolUse(raw, checked, chosen, "required" if mode == "required" else "auto", several)


def _choice(choice: Any) -> tuple[Literal["none", "auto", "required"], list[str] | None]:
    """The mode, and the names to choose from (None: any)."""
    if choice in (None, "auto"):
        return "auto", None
    if choice == "none":
        return "none", None
    if choice in ("required", "any"):
        return "required", None
    if isinstance(choice, Mapping):
        function = choice.get("function")
        if choice.get("type") == "function" and isinstance(function, Mapping) and isinstance(function.get("name"), str):
            return "required", [function["name"]]
        if choice.get("type") == "function" and isinstance(choice.get("name"), str):
            return "required", [choice["name"]]
    raise UnsupportedField(
        f'tool_choice is {str(choice)[:80]!r}; use "none", "auto", "required" or '
        '{"type": "function", "function": {"name": …}}.',
        "tool_choice",
    )


def _tool(at: int, tool: dict[str, Any]) -> Tool:
    kind, function = tool.get("type", "function"), tool.get("function")
    if kind != "function":
        raise UnsupportedField(f"tools[{at}] is of type {str(kind)[:40]!r}; only functions can be called.", "tools")
    if not isinstance(function, Mapping):
        raise InvalidRequest(f"tools[{at}].function is missing; give its name and parameters.", "tools")
    name, parameters = function.get("name"), function.get("parameters")
    if not isinstance(name, str) or not 0 < len(name) <= 256 or not name.isprintable():
        raise InvalidRequest(f"tools[{at}].function.name must be a string of 1 to 256 printable characters.", "tools")
    if parameters is not None and not isinstance(parameters, Mapping):
        raise InvalidRequest(f"tools[{at}].function.parameters must be a JSON schema, which is an object.", "tools")
    return Tool(name, _schema(parameters), strict=function.get("strict") is True)


def _schema(parameters: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Arguments are an object, whether or not the schema says so."""
    if not parameters:
        return _NO_PARAMETERS
    return parameters if "type" in parameters else {**parameters, "type": "object"}
