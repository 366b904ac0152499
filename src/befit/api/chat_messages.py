"""Messages as templates expect them, and ways to join those that a template does not take apart."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from befit.errors import InvalidRequest, UnsupportedField

_TEXT_PARTS = ("text", "input_text", "output_text")
_BETWEEN = "\n\n"
"""Between the contents of messages that are joined."""


def plain_messages(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Copies whose content is a string: null or missing is "", text parts are joined by newlines.

    Other fields that are null, and lists of tool calls that are empty, are left out: templates ask whether a field is
    there before they look into it. Arguments of tool calls become objects where they are JSON text, the form that
    templates write out.
    """
    if not messages:
        raise InvalidRequest("messages is empty; send at least one.", "messages")
    return [_plain(at, message) for at, message in enumerate(messages)]


def _plain(at: int, message: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise InvalidRequest(f"messages[{at}] has no role; use system, user, assistant or tool.", "messages")
    plain = {name: value for name, value in message.items() if value is not None}
    plain["content"] = _content(f"messages[{at}].content", message.get("content"))
    if not plain.get("tool_calls"):
        plain.pop("tool_calls", None)
    if isinstance(plain.get("tool_calls"), list):
        plain["tool_calls"] = [_call(call) for call in message["tool_calls"]]
    return plain


def _content(where: str, content: Any) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise InvalidRequest(f"{where} must be a string, null or a list of parts.", "messages")
    return "\n".join(_part(f"{where}[{at}]", part) for at, part in enumerate(content))


def _part(where: str, part: Any) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind not in _TEXT_PARTS:
        raise UnsupportedField(f"{where} is of type {kind!r}; only text parts can be rendered.", "messages")
    if not isinstance(part.get("text"), str):
        raise InvalidRequest(f"{where} has no text.", "messages")
    text: str = part["text"]
    return text


def _call(call: Any) -> Any:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("arguments"), str):
        return call
    try:
        arguments = json.loads(function["arguments"])
    except (ValueError, RecursionError):
        return call
    return {**call, "function": {**function, "arguments": arguments}} if isinstance(arguments, dict) else call


def as_parts(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Contents as lists of one text part, for templates that take contents apart."""
    return [{**message, "content": [{"type": "text", "text": message["content"]}]} for message in messages]


def attempts(messages: list[dict[str, Any]], *, fold_system: bool) -> Iterator[list[dict[str, Any]]]:
    """The messages as they are, then joined in ways that more templates take, each only if it is another:

    neighbours of the same role as one message; all system messages as one in front; system messages in front of the
    first user message's content; and an empty user message before an assistant that speaks first. fold_system: the
    template would leave system messages out, so only the last two will do.
    """
    folded = merged(without_system(messages))
    opened = [{"role": "user", "content": ""}, *folded] if folded and folded[0]["role"] != "user" else folded
    ways = [folded, opened] if fold_system else [messages, merged(messages), system_first(messages), folded, opened]
    tried: list[list[dict[str, Any]]] = []
    for way in [way for way in ways if way] or [messages]:
        if way not in tried:
            tried.append(way)
            yield way


def system_first(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One system message in front with the contents of all, and neighbours of the same role as one message."""
    system = [message for message in messages if message["role"] == "system"]
    others = [message for message in messages if message["role"] != "system"]
    return merged(system + others)


def merged(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Neighbours of the same role as one message. Tool calls and tool results stay apart."""
    result: list[dict[str, Any]] = []
    for message in messages:
        before = result[-1] if result else None
        if before is not None and before["role"] == message["role"] and _joins(before) and _joins(message):
            result[-1] = {**before, "content": before["content"] + _BETWEEN + message["content"]}
        else:
            result.append(message)
    return result


def _joins(message: Mapping[str, Any]) -> bool:
    return message["role"] in ("system", "user", "assistant") and not message.get("tool_calls")


def without_system(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """System messages in front of the first user message's content; as a user message of their own without one."""
    system = _BETWEEN.join(message["content"] for message in messages if message["role"] == "system")
    others = [message for message in messages if message["role"] != "system"]
    if not system:
        return others
    for at, message in enumerate(others):
        if message["role"] == "user":
            joined = {**message, "content": system + _BETWEEN + message["content"]}
            return [*others[:at], joined, *others[at + 1 :]]
    return [{"role": "user", "content": system}, *others]
