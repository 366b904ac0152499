"""One message of a model, taken apart as it comes: reasoning, text and tool calls."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from befit.api.reasoning import ReasoningSplitter
from befit.api.tools.pieces import CallDelta, ToolParser


@dataclass(frozen=True, slots=True)
class Reasoning:
    """More of the thoughts before the answer."""

    text: str


Part: TypeAlias = Reasoning | CallDelta | str
"""Thoughts, more of a call, or text of the answer."""


@dataclass(slots=True)
class ToolCall:
    """A call, as far as it came; `arguments` is JSON text unless the output was cut within it."""

    id: str
    name: str
    arguments: str = ""


@dataclass(slots=True)
class Message:
    """A whole message."""

    text: str = ""
    reasoning: str = ""
    calls: list[ToolCall] = field(default_factory=list)


class MessageParser:
    """Takes one message apart. Both parsers are optional; reasoning is split off first."""

    def __init__(self, reasoning: ReasoningSplitter | None, tools: ToolParser | None) -> None:
        self._reasoning = reasoning
        self._tools = tools
        self.calls = 0

    def push(self, text: str) -> list[Part]:
        """What more text tells."""
        thoughts = ""
        if self._reasoning is not None:
            thoughts, text = self._reasoning.push(text)
        return self._parts(thoughts, text, False)

    def finish(self) -> list[Part]:
        """The message is over: what was held back."""
        thoughts, text = self._reasoning.finish() if self._reasoning is not None else ("", "")
        return self._parts(thoughts, text, True)

    def whole(self, text: str) -> Message:
        """A message that came at once."""
        message = Message()
        texts: list[str] = []
        for part in [*self.push(text), *self.finish()]:
            if isinstance(part, str):
                texts.append(part)
            elif isinstance(part, Reasoning):
                message.reasoning += part.text
            elif part.name is not None:
                message.calls.append(ToolCall(part.id or "", part.name, part.arguments))
            else:
                message.calls[-1].arguments += part.arguments
        message.text = "".join(texts)
        return message

    def _parts(self, thoughts: str, text: str, last: bool) -> list[Part]:
        parts: list[Part] = [Reasoning(thoughts)] if thoughts else []
        if self._tools is None:
            parts += [text] if text else []
        else:
            parts += self._tools.push(text)
            parts += self._tools.finish() if last else []
        self.calls += sum(isinstance(part, CallDelta) and part.name is not None for part in parts)
        return parts


def parts(parser: MessageParser | None, text: str, *, last: bool) -> list[Part]:
    """What more text of a message tells; without a parser, the text. last: no more comes."""
    if parser is None:
        return [text] if text else []
    told = parser.push(text)
    return told + parser.finish() if last else told
