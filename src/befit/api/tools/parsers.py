"""Reading calls out of messages: those that a marker begins, and those that are the whole message."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Collection
from typing import Any

from befit.api.tools.json_calls import JsonCalls
from befit.api.tools.pieces import Body, Numbering, Piece, ValueScanner, held_back


class MarkedParser:
    """Text, in which each `marker` begins a body with calls. Whitespace before a marker is left out."""

    def __init__(self, marker: str, body: Callable[[], Body]) -> None:
        self._marker = marker
        self._make_body = body
        self._body: Body | None = None
        self._held = ""

    def push(self, text: str) -> list[Piece]:
        """See `ToolParser`."""
        pieces: list[Piece] = []
        left: str | None = text
        while left:
            if self._body is not None:
                more, left = self._body.push(left)
                pieces += more
                if left is not None:
                    self._body = None
                continue
            before, found, after = (self._held + left).partition(self._marker)
            if found:
                pieces += [before.rstrip()] if before.strip() else []
                self._held, self._body, left = "", self._make_body(), after
                continue
            shown = before[: len(before) - held_back(before, self._marker)].rstrip()
            self._held = before[len(shown) :]
            pieces += [shown] if shown else []
            break
        return pieces

    def finish(self) -> list[Piece]:
        """See `ToolParser`."""
        if self._body is not None:
            return self._body.finish()
        return [self._held] if self._held else []


class WholeParser:
    """A message that is calls from its beginning, as JSON or Python, or is text.

    openings: what may stand before, such as a token or a code fence. Only names of `tools` make a call: other JSON is
    an answer in JSON.
    """

    def __init__(
        self, tools: Collection[str], numbering: Numbering, *, openings: tuple[str, ...] = (), python: bool = False
    ) -> None:
        self._tools = tools
        self._numbering = numbering
        self._openings = openings
        self._python = python
        self._held = ""
        self._text = self._ended = False
        self._body: Body | None = None

    def push(self, text: str) -> list[Piece]:
        """See `ToolParser`."""
        if self._ended:
            return self._behind(text)
        if self._body is None and not self._text:
            self._held += text
            text = self._begin()
        if self._body is None:
            return [text] if text else []
        pieces, rest = self._body.push(text)
        if rest is None:
            return pieces
        self._body = None
        self._text = self._numbering.count == 0
        self._ended = not self._text
        return pieces + (self._behind(rest) if self._ended else [rest] if rest else [])

    def finish(self) -> list[Piece]:
        """See `ToolParser`."""
        if self._body is not None:
            return self._body.finish()
        held, self._held = "" if self._ended else self._held, ""
        return [held] if held else []

    def _behind(self, text: str) -> list[Piece]:
        """Behind calls, the end of a fence belongs to them; other text is text."""
        text, self._held = self._held + text, ""
        if text.strip("`\n\r\t ;"):
            self._ended, self._text = False, True
            return [text]
        self._held = text
        return []

    def _begin(self) -> str:
        """Decide what the message is, if that can be told: sets the body or `_text`; what is for either of them."""
        rest = self._held.lstrip()
        opening = next((one for one in self._openings if rest.startswith(one)), "")
        rest = rest[len(opening) :].lstrip()
        if not rest or (not opening and any(one.startswith(rest) for one in self._openings)):
            return ""
        before = self._held[: len(self._held) - len(rest)]
        if re.match(r"(\[\s*)?\{", rest):
            self._body = JsonCalls(self._numbering, opening=before, closing="", known=self._tools)
        elif self._python and re.match(r"(\[\s*)?[A-Za-z_][\w.]*\s*\(", rest):
            self._body = PythonCalls(self._numbering, before, self._tools)
        elif rest == "[" or re.fullmatch(r"\[\s*", rest) or (self._python and re.fullmatch(r"(\[\s*)?[\w.]+\s*", rest)):
            return ""
        else:
            self._text = True
            rest = self._held
        self._held = ""
        return rest


class EitherParser:
    """A message that is calls from its beginning, or text in which a marker begins calls.

    Small models forget the markers that they were trained on, and write just the JSON, or a code block with it.
    """

    def __init__(self, whole: WholeParser, marked: MarkedParser) -> None:
        self._whole = whole
        self._marked = marked

    def push(self, text: str) -> list[Piece]:
        """See `ToolParser`."""
        return self._through(self._whole.push(text))

    def finish(self) -> list[Piece]:
        """See `ToolParser`."""
        return [*self._through(self._whole.finish()), *self._marked.finish()]

    def _through(self, pieces: list[Piece]) -> list[Piece]:
        result: list[Piece] = []
        for piece in pieces:
            result += self._marked.push(piece) if isinstance(piece, str) else [piece]
        return result


class PythonCalls:
    """`[f(a=1, b="x"), g()]`, Llama's and Gemma's: a list of calls with literal keyword arguments, or one call.

    The calls come out when the list ends, since only then the arguments can be read.
    """

    def __init__(self, numbering: Numbering, before: str, tools: Collection[str]) -> None:
        self._numbering = numbering
        self._before = before
        self._tools = tools
        self._code = ""
        self._depth = 0
        self._quote = ""
        self._escaped = False

    def push(self, text: str) -> tuple[list[Piece], str | None]:
        """See `Body`."""
        for at, char in enumerate(text):
            if self._quote:
                if self._escaped:
                    self._escaped = False
                elif char == "\\":
                    self._escaped = True
                elif char == self._quote:
                    self._quote = ""
            elif char in "\"'":
                self._quote = char
            elif char in "([{":
                self._depth += 1
            elif char in ")]}":
                self._depth -= 1
                if self._depth <= 0:
                    self._code += text[: at + 1]
                    return self.finish(), text[at + 1 :]
        self._code += text
        return [], None

    def finish(self) -> list[Piece]:
        """See `Body`."""
        try:
            calls = _python_calls(self._code, self._tools)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            return [self._before + self._code]
        return [piece for name, args in calls for piece in (self._numbering.start(name), self._numbering.more(args))]


def _python_calls(code: str, tools: Collection[str]) -> list[tuple[str, str]]:
    """(name, arguments as JSON) of each call. Raises ValueError and what Python's parser does."""
    tree = ast.parse(code.strip(), mode="eval").body
    found = []
    for call in tree.elts if isinstance(tree, ast.List) else [tree]:
        name = ast.unparse(call.func) if isinstance(call, ast.Call) else ""
        if not isinstance(call, ast.Call) or name not in tools or call.args:
            raise ValueError("not a call of one of the tools")
        arguments: dict[str, Any] = {}
        for keyword in call.keywords:
            if keyword.arg is None:
                raise ValueError("arguments are unpacked")
            arguments[keyword.arg] = _literal(keyword.value)
        found.append((name, json.dumps(arguments, ensure_ascii=False, allow_nan=False)))
    return found


def _literal(node: ast.expr) -> Any:
    if isinstance(node, ast.Name) and node.id in ("true", "false", "null"):  # JSON's words in Python
        return {"true": True, "false": False, "null": None}[node.id]
    if isinstance(node, ast.List | ast.Tuple):
        return [_literal(item) for item in node.elts]
    if isinstance(node, ast.Dict):
        return {str(_literal(key)): _literal(value) for key, value in zip(node.keys, node.values, strict=True) if key}
    value = ast.literal_eval(node)
    if not isinstance(value, str | int | float | bool | None):
        raise ValueError("an argument is no JSON value")
    return value


class NamedCall:
    """`name<separator>{…}`: Mistral's newer models (`[TOOL_CALLS]name[ARGS]{…}`), or a JSON list as in their older
    ones."""

    def __init__(self, numbering: Numbering, opening: str, separators: tuple[str, ...]) -> None:
        self._numbering = numbering
        self._opening = opening
        self._separators = separators
        self._head = ""
        self._scanner: ValueScanner | None = None
        self._json: JsonCalls | None = None

    def push(self, text: str) -> tuple[list[Piece], str | None]:
        """See `Body`."""
        if self._json is not None:
            return self._json.push(text)
        if self._scanner is None:
            self._head += text
            at = self._head.find("{")
            if self._head.lstrip()[:1] in ("[", "{") and not self._head.lstrip().startswith(self._separators):
                self._json = JsonCalls(self._numbering, opening=self._opening, closing="", known=None)
                return self._json.push(self._head)
            if at < 0:
                return [], None
            name = re.split("|".join(map(re.escape, self._separators)), self._head[:at])[0].strip()
            start, text = self._numbering.start(name), self._head[at:]
            self._scanner = ValueScanner()
            pieces, rest = self._arguments(text)
            return [start, *pieces], rest
        return self._arguments(text)

    def finish(self) -> list[Piece]:
        """See `Body`."""
        if self._json is not None:
            return self._json.finish()
        return [] if self._scanner is not None else [self._opening + self._head]

    def _arguments(self, text: str) -> tuple[list[Piece], str | None]:
        assert self._scanner is not None
        end = self._scanner.end(text)
        part = text if end is None else text[:end]
        return [self._numbering.more(part)] if part else [], None if end is None else text[end:]


class DeepSeekCalls:
    """DeepSeek's calls, between markers that are tokens of their own.

    V2.5, V3 and R1 write `function<sep>name`, a line break and the arguments in a ```json fence; V3.1 writes
    `name<sep>{…}`.
    """

    BEGIN = "<｜tool▁calls▁begin｜>"
    END = "<｜tool▁calls▁end｜>"
    CALL, SEPARATOR, CALL_END = "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"

    def __init__(self, numbering: Numbering) -> None:
        self._numbering = numbering
        self._held = ""
        self._scanner: ValueScanner | None = None

    def push(self, text: str) -> tuple[list[Piece], str | None]:
        """See `Body`."""
        pieces: list[Piece] = []
        self._held += text
        while True:
            if self._scanner is not None:
                end = self._scanner.end(self._held)
                part, self._held = (self._held, "") if end is None else (self._held[:end], self._held[end:])
                pieces += [self._numbering.more(part)] if part else []
                if end is None:
                    return pieces, None
                self._scanner = None
            ended, call = self._held.find(self.END), self._held.find(self.CALL)
            if ended >= 0 and (call < 0 or ended < call):
                return pieces, self._held[ended + len(self.END) :]
            head, found, after = self._held[max(call, 0) :].partition("{")
            kind, separated, name = head.removeprefix(self.CALL).partition(self.SEPARATOR)
            if call < 0 or not found or not separated:
                return pieces, None
            if name.strip():
                kind = name.partition("```")[0]
            pieces.append(self._numbering.start(kind.strip()))
            self._held, self._scanner = found + after, ValueScanner()

    def finish(self) -> list[Piece]:
        """See `Body`."""
        return [self.BEGIN + self._held] if self._numbering.count == 0 else []
