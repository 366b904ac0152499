"""What a model's text is taken apart into, and scanning text that arrives piece by piece."""

from __future__ import annotations

import secrets
import string
from dataclasses import dataclass
from typing import Protocol, TypeAlias

_ALPHANUMERIC = string.ascii_letters + string.digits


@dataclass(slots=True)
class CallDelta:
    """More of call `index` of a message: first its id and name, then pieces of its arguments, which are JSON text."""

    index: int
    arguments: str = ""
    id: str | None = None
    name: str | None = None


Piece: TypeAlias = str | CallDelta
"""Text to show, or more of a call."""


class ToolParser(Protocol):
    """Reads the calls out of one message."""

    def push(self, text: str) -> list[Piece]:
        """What more text tells. What may still become a call, or the whitespace before one, is held back."""
        ...

    def finish(self) -> list[Piece]:
        """The message is over: what was held back, and the end of a call that has none."""
        ...


class Body(Protocol):
    """Reads what stands between the marker that begins calls and the end of them."""

    def push(self, text: str) -> tuple[list[Piece], str | None]:
        """Pieces, and the text behind the body once that has ended."""
        ...

    def finish(self) -> list[Piece]:
        """The message is over."""
        ...


class Numbering:
    """Numbers and names the calls of one message. short: ids of nine letters and digits, as Mistral's models have."""

    def __init__(self, *, short: bool = False) -> None:
        self.count = 0
        self._short = short

    def start(self, name: str) -> CallDelta:
        """The beginning of the next call."""
        self.count += 1
        if self._short:
            call_id = "".join(secrets.choice(_ALPHANUMERIC) for _ in range(9))
        else:
            call_id = f"call_{secrets.token_hex(12)}"
        return CallDelta(self.count - 1, "", call_id, name)

    def more(self, arguments: str) -> CallDelta:
        """More arguments of the call that was started last."""
        return CallDelta(self.count - 1, arguments)


def held_back(text: str, marker: str) -> int:
    """How many characters at the end of `text` may be the beginning of `marker`."""
    for size in range(min(len(text), len(marker) - 1), 0, -1):
        if text.endswith(marker[:size]):
            return size
    return 0


class ValueScanner:
    """Finds the end of a JSON value in text that arrives piece by piece."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = self._escaped = self._scalar = False

    def end(self, text: str) -> int | None:
        """Where in `text` the value ends, or None when more of it is to come. A number or word ends before what
        follows it."""
        for at, char in enumerate(text):
            if self._in_string:
                if self._escaped:
                    self._escaped = False
                elif char == "\\":
                    self._escaped = True
                elif char == '"':
                    self._in_string = False
                    if self._depth == 0:
                        return at + 1
            elif self._scalar:
                if char in ",]} \t\r\n":
                    return at
            elif char == '"':
                self._in_string = True
            elif char in "{[":
                self._depth += 1
            elif char in "}]":
                self._depth -= 1
                if self._depth <= 0:
                    return at + 1
            elif self._depth == 0 and not char.isspace():
                self._scalar = True
        return None
