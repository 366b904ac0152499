"""Messages made of content blocks, as messages that chat templates know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from befit.api.answers import dumps
from befit.errors import InvalidRequest, UnsupportedField

_Message = dict[str, Any]


def system_message(system: Any) -> list[_Message]:
    """`system`, a string or blocks of text, as a message; none if there is none."""
    text = _text("system", system) if system else ""
    return [{"role": "system", "content": text}] if text else []


def to_messages(messages: Sequence[Mapping[str, Any]]) -> list[_Message]:
    """Each message as one or several: results of tools are messages of their own, before the text beside them."""
    if not messages:
        raise InvalidRequest("messages is empty; send at least one.", "messages")
    return [one for at, message in enumerate(messages) for one in _messages(f"messages[{at}]", message)]


def _messages(where: str, message: Mapping[str, Any]) -> list[_Message]:
    role, content = message.get("role"), message.get("content")
    if role not in ("user", "assistant", "system"):
        raise InvalidRequest(f"{where}.role is {str(role)[:40]!r}; use user or assistant.", "messages")
    if isinstance(content, str):
        return [{"role": role, "content": content}]
    if not isinstance(content, list):
        raise InvalidRequest(f"{where}.content must be a string or a list of blocks.", "messages")
    results: list[_Message] = []
    own: _Message = {"role": role}
    texts: list[str] = []
    for at, block in enumerate(content):
        place = f"{where}.content[{at}]"
        kind = block.get("type") if isinstance(block, Mapping) else None
        if kind == "text":
            texts.append(_block_text(place, block))
        elif kind == "tool_result" and role == "user":
            results.append(_result(place, block))
        elif kind == "tool_use" and role == "assistant":
            own.setdefault("tool_calls", []).append(_call(place, block))
        elif kind == "thinking" and role == "assistant":
            own["reasoning_content"] = own.get("reasoning_content", "") + str(block.get("thinking", ""))
        elif kind == "document" and role == "user":
            texts.append(_document(place, block))
        elif kind != "redacted_thinking":
            raise UnsupportedField(
                f"{place} is of type {str(kind)[:40]!r}, which a message of the {role} cannot have here.", "messages"
            )
    own["content"] = "\n".join(texts)
    if role == "user" and results and not texts:
        return results
    return [*results, own]


def _block_text(where: str, block: Mapping[str, Any]) -> str:
    if not isinstance(block.get("text"), str):
        raise InvalidRequest(f"{where} has no text.", "messages")
    text: str = block["text"]
    return text


def _text(where: str, content: Any) -> str:
    """A string, or blocks of text in lines below each other."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise InvalidRequest(f"{where} must be a string or a list of blocks.", where.partition("[")[0])
    texts = []
    for at, block in enumerate(content):
        kind = block.get("type") if isinstance(block, Mapping) else None
        if kind != "text":
            raise UnsupportedField(
                f"{where}[{at}] is of type {str(kind)[:40]!r}; only text can be rendered.", where.partition("[")[0]
            )
        texts.append(_block_text(f"{where}[{at}]", block))
    return "\n".join(texts)


def _result(where: str, block: Mapping[str, Any]) -> _Message:
    call = block.get("tool_use_id")
    if not isinstance(call, str):
        raise InvalidRequest(f"{where}.tool_use_id is missing; name the call that this is the result of.", "messages")
    text = _text(f"{where}.content", block.get("content") or "")
    return {"role": "tool", "tool_call_id": call, "content": f"Error: {text}" if block.get("is_error") else text}


def _call(where: str, block: Mapping[str, Any]) -> dict[str, Any]:
    name, call = block.get("name"), block.get("id")
    if not isinstance(name, str) or not isinstance(call, str):
        raise InvalidRequest(f"{where} needs an id and the name of a tool.", "messages")
    return {"id": call, "type": "function", "function": {"name": name, "arguments": dumps(block.get("input") or {})}}


def _document(where: str, block: Mapping[str, Any]) -> str:
    """A document that is plain text, under its title."""
    source = block.get("source")
    if not isinstance(source, Mapping) or source.get("type") != "text" or not isinstance(source.get("data"), str):
        raise UnsupportedField(f"{where} is a document that is not plain text; send its text.", "messages")
    title = block.get("title")
    return f"{title}\n{source['data']}" if isinstance(title, str) and title else str(source["data"])
