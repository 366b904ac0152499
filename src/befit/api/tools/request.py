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
    """What a request wants of tools. `raw` are the tools as templates get them; a call is one of `callable`."""

    raw: list[dict[str, Any]]
    tools: tuple[Tool, ...]
    callable: tuple[Tool, ...]
    mode: Literal["auto", "required"]
    several: bool

    @property
    def names(self) -> frozenset[str]:
        """Names of the tools that may be called."""
        return frozenset(tool.name for tool in self.callable)


def tool_use(tools: list[dict[str, Any]] | None, choice: Any, parallel: bool | None) -> ToolUse | None:
    """None when no tool may be called: there are none, or `tool_choice` is "none"."""
    mode, names, one = _choice(choice)
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
    several = parallel is not False and not one
    return ToolUse(raw, checked, chosen, "required" if mode == "required" else "auto", several)


def _choice(choice: Any) -> tuple[Literal["none", "auto", "required"], list[str] | None, bool]:
    """The mode, the names to choose from (None: any), and whether one named tool means one call."""
    if choice in (None, "auto"):
        return "auto", None, False
    if choice == "none":
        return "none", None, False
    if choice in ("required", "any"):
        return "required", None, False
    if isinstance(choice, Mapping):
        name = _function_name(choice)
        if name is not None:
            return "required", [name], True
        if choice.get("type") == "allowed_tools":
            # Chats have the two fields in an object of their own, responses have them beside the type.
            allowed = choice.get("allowed_tools", choice)
            mode, listed = (allowed.get("mode"), allowed.get("tools")) if isinstance(allowed, Mapping) else (None, None)
            names = [_function_name(tool) for tool in listed] if isinstance(listed, list) else []
            if mode in ("auto", "required") and names and None not in names:
                return mode, [name for name in names if name is not None], False
    raise UnsupportedField(
        f'tool_choice is {str(choice)[:80]!r}; use "none", "auto", "required", '
        '{"type": "function", "function": {"name": …}} or allowed_tools with a mode and functions.',
        "tool_choice",
    )


def _function_name(value: Any) -> str | None:
    """Of a reference to a function, in the shape of chats or of responses."""
    if not isinstance(value, Mapping) or value.get("type") != "function":
        return None
    function = value.get("function")
    name = function.get("name") if isinstance(function, Mapping) else value.get("name")
    return name if isinstance(name, str) else None


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
