"""Calls written as JSON: `{"name": …, "arguments": {…}}`, one or several, with or without a list around them.

Names of the fields differ between families and even answers of one model, so all that are common are understood:
`arguments` or `parameters`, an OpenAI-like `{"type": "function", "function": {…}}`, and the fields in any order.
"""

from __future__ import annotations

import json
from collections.abc import Container

from befit.api.tools.pieces import Numbering, Piece, ValueScanner

_ARGUMENTS = ("arguments", "parameters")
_SPACE = " \t\r\n"


class NoCallError(Exception):
    """The text is not a call. `rest` is what was not looked at."""

    def __init__(self, rest: str = "") -> None:
        self.rest = rest


class JsonCall:
    """Reads one object. `raw` is its text up to where it is known to be a call.

    known: the names that make it a call, None for any.
    """

    def __init__(self, numbering: Numbering, known: Container[str] | None) -> None:
        self.raw = ""
        self.started = False
        self._numbering = numbering
        self._known = known
        self._depth = 0  # 1 in the object, 2 in the `function` within it
        self._key: str | None = None
        self._value = ""
        self._scanner: ValueScanner | None = None
        self._expect = "{"
        self._arguments: str | None = None  # what came before the name

    def push(self, text: str, pieces: list[Piece]) -> str | None:
        """Append pieces; the text behind the object once it has ended. Raises NoCallError."""
        while text:
            if self._scanner is None and self._expect == "value" and text[0] not in _SPACE:
                if self._key == "function" and text[0] == "{" and self._depth == 1:
                    self._depth, self._expect = 2, "{"
                else:
                    self._begin("")
            if self._scanner is not None:
                text = self._scan(text, pieces)
                continue
            char, rest = text[0], text[1:]
            self._remember(char)
            if char in _SPACE or (char == "," and self._expect == "key"):
                pass
            elif char == "}" and self._expect == "key":
                self._depth -= 1
                if self._depth == 0:
                    self._complete(rest, pieces)
                    return rest
            elif char == "{" and self._expect == "{":
                self._depth, self._expect = max(self._depth, 1), "key"
            elif char == '"' and self._expect == "key":
                self._begin(char)
            elif char == ":" and self._expect == ":":
                self._expect = "value"
            else:
                raise NoCallError(char + rest if self.started else rest)
            text = rest
        return None

    def _begin(self, text: str) -> None:
        self._scanner, self._value = ValueScanner(), text
        self._scanner.end(text)

    def _remember(self, text: str) -> None:
        if not self.started:
            self.raw += text

    def _scan(self, text: str, pieces: list[Piece]) -> str:
        """More of the key or value at hand; what is left of the text behind it."""
        assert self._scanner is not None
        end = self._scanner.end(text)
        part = text if end is None else text[:end]
        self._remember(part)
        begins, self._value = not self._value, self._value + part
        is_arguments = self._expect == "value" and self._key in _ARGUMENTS
        if is_arguments and self._value.lstrip()[:1] == "{":
            self._more(part.lstrip() if begins else part, pieces)
        if end is None:
            return ""
        self._scanner = None
        rest = text[end:]
        if self._expect == "key":
            self._key, self._expect = str(_loads(self._value, rest)), ":"
        else:
            self._expect = "key"
            self._take(rest, pieces)
        return rest

    def _take(self, rest: str, pieces: list[Piece]) -> None:
        """A value is complete."""
        if self._key in ("name", "function") and not self.started:
            value = _loads(self._value, rest)
            if not isinstance(value, str) or (self._known is not None and value not in self._known):
                raise NoCallError(rest)
            pieces.append(self._numbering.start(value))
            self.started = True
            if self._arguments:
                pieces.append(self._numbering.more(self._arguments))
        elif self._key in _ARGUMENTS and self._value.lstrip()[:1] != "{":
            value = _loads(self._value, rest)
            # Some models write the arguments as a string that holds JSON, or null for none.
            self._more("{}" if value is None else value if isinstance(value, str) else self._value, pieces)

    def _more(self, text: str, pieces: list[Piece]) -> None:
        self._arguments = (self._arguments or "") + text
        if self.started and text:
            pieces.append(self._numbering.more(text))

    def _complete(self, rest: str, pieces: list[Piece]) -> None:
        if not self.started:
            raise NoCallError(rest)
        if not self._arguments:
            pieces.append(self._numbering.more("{}"))


class JsonCalls:
    """Reads calls until `closing`, or without one until something that is none.

    Calls are separated by whitespace, commas or semicolons and may stand in a list.
    """

    def __init__(self, numbering: Numbering, *, opening: str, closing: str, known: Container[str] | None) -> None:
        """opening: what came before, which is text again if no call follows."""
        self._numbering = numbering
        self._closing = closing
        self._known = known
        self._before = opening
        self._call: JsonCall | None = None
        self._listed = self._any = False
        self._rest = ""  # perhaps the beginning of `closing`

    def push(self, text: str) -> tuple[list[Piece], str | None]:
        """See `Body`."""
        pieces: list[Piece] = []
        while text:
            if self._call is not None:
                try:
                    after = self._call.push(text, pieces)
                except NoCallError as error:
                    if not self._call.started:
                        pieces.append(("" if self._any else self._before) + self._call.raw)
                    return pieces, error.rest
                if after is None:
                    break
                self._call, self._any, text = None, True, after
                continue
            text, self._rest = self._rest + text, ""
            if self._closing and text.startswith(self._closing):
                before = "" if self._any else self._before + self._closing
                return [*pieces, *([before] if before else [])], text[len(self._closing) :]
            if self._closing.startswith(text):
                self._rest = text
                return pieces, None
            char = text[0]
            if char == "{":
                self._call = JsonCall(self._numbering, self._known)
            elif char == "]" and self._listed and not self._closing:
                return pieces, text[1:]
            elif char in _SPACE or (char in ",;" and self._any) or (char in "]}" and self._any and self._closing):
                text = self._skip(text)  # small models close a brace too many
            elif char == "[" and not self._any and not self._listed:
                self._listed = True
                text = self._skip(text)
            else:
                return [*pieces, *self._text()], text
        return pieces, None

    def finish(self) -> list[Piece]:
        """See `Body`."""
        if self._call is None:
            return self._text(self._rest)
        held = "" if self._call.started else ("" if self._any else self._before) + self._call.raw
        return [held] if held else []

    def _skip(self, text: str) -> str:
        if not self._any:
            self._before += text[0]
        return text[1:]

    def _text(self, rest: str = "") -> list[Piece]:
        """What was taken for the beginning of calls and was none."""
        text = "" if self._any else self._before + rest
        return [text] if text else []


def _loads(text: str, rest: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise NoCallError(rest) from None
