"""Items, which are what a Responses conversation is made of, and the chat messages that say the same."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from befit.errors import InvalidRequest, UnsupportedField

Item: TypeAlias = dict[str, Any]
_ROLES = ("user", "assistant", "system", "developer")
_TEXTS = ("input_text", "output_text", "text", "reasoning_text")


def read_items(value: Any, find: Callable[[str], Item | None]) -> list[Item]:
    """The items of an `input`, each complete and with an id. find: an item kept here, by its id.

    Raises InvalidRequest or UnsupportedField, naming `input`, for what is none or is not text.
    """
    if isinstance(value, str):
        value = [{"role": "user", "content": value}]
    if not isinstance(value, list) or not value:
        raise InvalidRequest("input must be a string or a list of items, not empty.", "input")
    return [_item(f"input[{at}]", item, find) for at, item in enumerate(value)]


def _item(where: str, item: Any, find: Callable[[str], Item | None]) -> Item:
    if not isinstance(item, Mapping):
        raise InvalidRequest(f"{where} is not an object.", "input")
    kind = item.get("type", "message")
    if kind == "message":
        return _message(where, item)
    if kind == "function_call":
        texts = {name: _text(where, item, name) for name in ("call_id", "name", "arguments")}
        return {"id": _id(item, "fc_"), "type": kind, "status": "completed", **texts}
    if kind == "function_call_output":
        output = item.get("output")
        parts = _parts(f"{where}.output", output, "input_text")
        shown = output if isinstance(output, str) else parts
        call = _text(where, item, "call_id")
        return {"id": _id(item, "fco_"), "type": kind, "status": "completed", "call_id": call, "output": shown}
    if kind == "reasoning":
        content = _parts(f"{where}.content", item.get("content") or [], "reasoning_text")
        return {"id": _id(item, "rs_"), "type": kind, "summary": [], "content": content}
    if kind == "item_reference":
        found = find(_text(where, item, "id"))
        if found is None:
            raise InvalidRequest(f"{where} refers to {item['id'][:80]!r}, which is not kept here.", "input")
        return found
    raise UnsupportedField(f"{where} is of type {str(kind)[:60]!r}; messages and function calls can be read.", "input")


def _message(where: str, item: Mapping[str, Any]) -> Item:
    role = item.get("role")
    if role not in _ROLES:
        raise InvalidRequest(f"{where}.role is {str(role)[:60]!r}; use one of {', '.join(_ROLES)}.", "input")
    kind = "output_text" if role == "assistant" else "input_text"
    content = _parts(f"{where}.content", item.get("content"), kind)
    return {"id": _id(item, "msg_"), "type": "message", "role": role, "status": "completed", "content": content}


def _parts(where: str, content: Any, kind: str) -> list[Item]:
    if isinstance(content, str):
        return [_part(kind, content)]
    if not isinstance(content, list):
        raise InvalidRequest(f"{where} must be a string or a list of parts.", "input")
    parts = []
    for at, part in enumerate(content):
        name = part.get("type") if isinstance(part, Mapping) else None
        field = "refusal" if name == "refusal" else "text"
        if name not in (*_TEXTS, "refusal"):
            raise UnsupportedField(f"{where}[{at}] is of type {str(name)[:60]!r}; only text can be read.", "input")
        if not isinstance(part.get(field), str):
            raise InvalidRequest(f"{where}[{at}] has no text.", "input")
        parts.append(_part(kind, part[field]))
    return parts


def _part(kind: str, text: str) -> Item:
    return {"type": kind, "text": text, **({"annotations": []} if kind == "output_text" else {})}


def _text(where: str, item: Mapping[str, Any], name: str) -> str:
    if not isinstance(item.get(name), str):
        raise InvalidRequest(f"{where}.{name} is missing, or is not a string.", "input")
    text: str = item[name]
    return text


def _id(item: Mapping[str, Any], prefix: str) -> str:
    given = item.get("id")
    return given if isinstance(given, str) and given else prefix + uuid.uuid4().hex


def to_messages(items: list[Item]) -> list[dict[str, Any]]:
    """Chat messages. Calls of functions belong to the assistant's message before them; of reasoning, its text does."""
    messages: list[dict[str, Any]] = []
    thoughts = ""
    for item in items:
        match item["type"]:
            case "message":
                message: dict[str, Any] = {"role": item["role"], "content": _joined(item["content"])}
                if message["role"] == "assistant" and thoughts:
                    message["reasoning_content"], thoughts = thoughts, ""
                messages.append(message)
            case "function_call":
                if not messages or messages[-1]["role"] != "assistant":
                    messages.append({"role": "assistant", "content": ""})
                    if thoughts:
                        messages[-1]["reasoning_content"], thoughts = thoughts, ""
                function = {"name": item["name"], "arguments": item["arguments"]}
                call = {"id": item["call_id"], "type": "function", "function": function}
                messages[-1].setdefault("tool_calls", []).append(call)
            case "function_call_output":
                output = item["output"]
                text = output if isinstance(output, str) else _joined(output)
                messages.append({"role": "tool", "tool_call_id": item["call_id"], "content": text})
            case "reasoning":
                thoughts = _joined(item["content"])
    return messages


def _joined(parts: list[Item]) -> str:
    return "\n".join(part["text"] for part in parts)


def size(items: list[Item]) -> int:
    """Bytes that items take, about."""
    return sum(len(json.dumps(item)) for item in items)
