"""The output items of one response while they grow: thoughts, text and calls of functions, and the events of each.

An item's events are output_item.added; for text content_part.added, output_text.delta …, output_text.done and
content_part.done; for thoughts reasoning_text.delta … and reasoning_text.done; for a call
function_call_arguments.delta … and function_call_arguments.done; then output_item.done.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from befit.api.message import Part, Reasoning
from befit.api.openai.logprobs import LogprobWriter
from befit.api.openai.responses.items import Item
from befit.engine.outputs import TokenLogprob

Event: TypeAlias = tuple[str, dict[str, Any]]
"""An event's type, without `response.` in front, and its fields."""

_PREFIX = {"message": "msg_", "reasoning": "rs_", "function_call": "fc_"}
_TEXT = {"message": "output_text", "reasoning": "reasoning_text", "function_call": "function_call_arguments"}


@dataclass(slots=True)
class _Growing:
    """One item. name and call_id: of a call."""

    kind: Literal["message", "reasoning", "function_call"]
    index: int
    name: str = ""
    call_id: str = ""
    id: str = ""
    texts: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.id = _PREFIX[self.kind] + uuid.uuid4().hex

    @property
    def text(self) -> str:
        """Text, thoughts or arguments so far."""
        return "".join(self.texts)

    @property
    def where(self) -> dict[str, Any]:
        """The fields that say which part of which item an event is about."""
        place = {"item_id": self.id, "output_index": self.index}
        return place if self.kind == "function_call" else {**place, "content_index": 0}


class Output:
    """The items of one response, in order; the last one may be growing.

    spell: how to show log-probabilities, with `top` alternatives; None when they are not asked for.
    """

    def __init__(self, spell: LogprobWriter | None, top: int) -> None:
        self._spell = spell
        self._top = top
        self._done: list[Item] = []
        self._open: _Growing | None = None
        self._pending: list[TokenLogprob] = []

    @property
    def thinking(self) -> bool:
        """Whether the last item is thoughts."""
        return self._open is not None and self._open.kind == "reasoning"

    def items(self, status: str) -> list[Item]:
        """All of them; the growing one with this status."""
        return [*self._done, *([self._item(self._open, status)] if self._open is not None else [])]

    def take(self, parts: Sequence[Part], logprobs: Sequence[TokenLogprob]) -> Iterator[Event]:
        """The events of more of the message. logprobs: of the tokens that brought it; those of text are shown."""
        self._pending += logprobs
        for part in parts:
            if isinstance(part, str):
                yield from self._more("message", part)
            elif isinstance(part, Reasoning):
                yield from self._more("reasoning", part.text)
            else:
                if part.name is not None:
                    yield from self._begin("function_call", part.name, part.id or "")
                yield from self._more("function_call", part.arguments)

    def finish(self, status: str) -> Iterator[Event]:
        """The events of the end. An answer without anything is an empty message."""
        if self._open is None and not self._done:
            yield from self._begin("message")
        yield from self._end(status)

    def _begin(
        self, kind: Literal["message", "reasoning", "function_call"], name: str = "", call: str = ""
    ) -> Iterator[Event]:
        yield from self._end("completed")
        grown = self._open = _Growing(kind, len(self._done), name, call)
        item = self._item(grown, "in_progress")
        part = item.get("content", [None])[0]
        if part is not None:
            item = {**item, "content": []}
        yield "output_item.added", {"output_index": grown.index, "item": item}
        if kind == "message":
            yield "content_part.added", {**grown.where, "part": part}

    def _more(self, kind: Literal["message", "reasoning", "function_call"], text: str) -> Iterator[Event]:
        grown = self._open
        if grown is None or grown.kind != kind:
            yield from self._begin(kind)
            grown = self._open
            assert grown is not None
        logprobs, self._pending = self._pending, []
        if kind == "message":
            grown.logprobs += logprobs
        if not text and not (kind == "message" and logprobs):
            return
        grown.texts.append(text)
        shown = {"logprobs": self._spelled(logprobs)} if kind == "message" else {}
        yield f"{_TEXT[kind]}.delta", {**grown.where, "delta": text, **shown}

    def _end(self, status: str) -> Iterator[Event]:
        grown = self._open
        if grown is None:
            return
        item = self._item(grown, status)
        if grown.kind == "message":
            part = item["content"][0]
            yield "output_text.done", {**grown.where, "text": grown.text, "logprobs": part.get("logprobs", [])}
            yield "content_part.done", {**grown.where, "part": part}
        elif grown.kind == "reasoning":
            yield "reasoning_text.done", {**grown.where, "text": grown.text}
        else:
            yield "function_call_arguments.done", {**grown.where, "name": grown.name, "arguments": grown.text}
        self._done.append(item)
        self._open = None
        yield "output_item.done", {"output_index": grown.index, "item": item}

    def _item(self, grown: _Growing, status: str) -> Item:
        item: Item = {"id": grown.id, "type": grown.kind, "status": status}
        if grown.kind == "function_call":
            return {**item, "call_id": grown.call_id, "name": grown.name, "arguments": grown.text}
        part: Item = {"type": _TEXT[grown.kind], "text": grown.text}
        if grown.kind == "reasoning":
            return {**item, "summary": [], "content": [part]}
        part["annotations"] = []
        if self._spell is not None:
            part["logprobs"] = self._spelled(grown.logprobs)
        return {**item, "role": "assistant", "content": [part]}

    def _spelled(self, logprobs: list[TokenLogprob]) -> list[Item]:
        listed: list[Item] = self._spell.chat(logprobs, self._top)["content"] if self._spell is not None else []
        return listed
