"""Stream chunks, written by hand: what is the same in every chunk is rendered once, and only the text is escaped.

Text is escaped to plain ASCII, so that no client can split a chunk at a Unicode line separator or within a character.
"""

from __future__ import annotations

from collections.abc import Mapping
from json.encoder import encode_basestring_ascii as quote
from typing import Any

from befit.api.answers import dumps
from befit.api.openai.errors import error_object
from befit.api.problem import Problem


class ChunkWriter:
    """Renders the `data:` events of one stream.

    envelope: the fields that every chunk repeats. text_key and text_end surround the text inside a choice:
    `"text":` and nothing for completions, `"delta":{"content":` and `}` for chats.
    """

    def __init__(self, envelope: Mapping[str, Any], *, text_key: str, text_end: str, usage_null: bool) -> None:
        self._open = "data: " + dumps(dict(envelope))[:-1]
        self._text_key = text_key
        self._text_end = text_end
        usage = ',"usage":null' if usage_null else ""
        self._plain_end = f'{text_end},"logprobs":null,"finish_reason":null}}]{usage}}}\n\n'
        self._usage_null = usage
        self._heads: dict[int, str] = {}

    def _head(self, index: int) -> str:
        head = self._heads.get(index)
        if head is None:
            head = self._heads[index] = f'{self._open},"choices":[{{"index":{index},'
        return head

    def text(self, index: int, text: str) -> str:
        """A chunk with nothing but text: the hot path, once a token."""
        return f"{self._heads.get(index) or self._head(index)}{self._text_key}{quote(text)}{self._plain_end}"

    def full(
        self,
        index: int,
        text: str,
        *,
        logprobs: Mapping[str, Any] | None = None,
        finish_reason: str | None = None,
        choice_extra: Mapping[str, Any] | None = None,
        extra: Mapping[str, Any] | None = None,
        usage: Mapping[str, Any] | None = None,
    ) -> str:
        """A chunk with any of the rest: `choice_extra` joins the choice, `extra` the chunk."""
        tail = f',"usage":{dumps(usage)}' if usage is not None else self._usage_null
        return (
            f"{self._head(index)}{self._text_key}{quote(text)}{self._text_end},"
            f'"logprobs":{dumps(logprobs)},"finish_reason":{dumps(finish_reason)}{_members(choice_extra)}}}]'
            f"{_members(extra)}{tail}}}\n\n"
        )

    def delta(self, index: int, delta: Mapping[str, Any], extra: Mapping[str, Any] | None = None) -> str:
        """A chat chunk whose delta is written out, such as the role at the start."""
        return (
            f'{self._head(index)}"delta":{dumps(delta)},"logprobs":null,"finish_reason":null}}]'
            f"{_members(extra)}{self._usage_null}}}\n\n"
        )

    def part(
        self,
        index: int,
        delta: Mapping[str, Any],
        *,
        logprobs: Mapping[str, Any] | None = None,
        finish_reason: str | None = None,
        choice_extra: Mapping[str, Any] | None = None,
        usage: Mapping[str, Any] | None = None,
    ) -> str:
        """A chat chunk of any kind, such as a piece of a tool call."""
        tail = f',"usage":{dumps(usage)}' if usage is not None else self._usage_null
        return (
            f'{self._head(index)}"delta":{dumps(delta)},"logprobs":{dumps(logprobs)},'
            f'"finish_reason":{dumps(finish_reason)}{_members(choice_extra)}}}]{tail}}}\n\n'
        )

    def usage(self, usage: Mapping[str, Any]) -> str:
        """The last chunk of a stream that was asked for usage: no choices."""
        return f'{self._open},"choices":[],"usage":{dumps(usage)}}}\n\n'


def _members(members: Mapping[str, Any] | None) -> str:
    return "," + dumps(members)[1:-1] if members else ""


def error_event(error: BaseException) -> bytes:
    """The event that ends a stream which failed after it began."""
    return f"data: {dumps(error_object(Problem.of(error)))}\n\n".encode("ascii")
