"""Target: definitions of tools, what is chosen of them, and a model's reply."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from common import One, document, dumped, fields

from befit.errors import BefitError


def make_tools() -> One:
    from api.tools.test_parsers import FORMATS
    from befit.api.tools.pieces import CallDelta
    from befit.api.tools.request import tool_use
    from befit.engine.grammar import Grammars
    from befit.structure import Structure
    from support.confined import VOCAB, ByteTokenizer

    words: Any = ByteTokenizer()

    def read(form: Any, names: frozenset[str], pieces: list[str]) -> tuple[str, list[list[str]]]:
        parser = form.read(names)
        text, calls = "", []
        for piece in [*(part for each in pieces for part in parser.push(each)), *parser.finish()]:
            if isinstance(piece, CallDelta):
                if piece.name is not None:
                    calls.append([piece.name, ""])
                calls[piece.index][1] += piece.arguments
            else:
                text += piece
        return text, calls

    def take(value: Any) -> None:
        given = fields(value, tools=[], reply="")
        whole = value if isinstance(value, dict) else {}
        with contextlib.suppress(BefitError):
            tools = [tool for tool in given.tools if isinstance(tool, dict)]
            use = tool_use(tools, whole.get("choice"), whole.get("parallel"))
            names = use.names if use is not None else frozenset({"f"})
            for form in FORMATS.values():
                if len(given.reply) <= 2000:
                    assert read(form, names, [given.reply]) == read(form, names, list(given.reply)), form.name
            if use is not None:
                form = list(FORMATS.values())[len(given.reply) % len(FORMATS)]
                rules = form.grammar(use.callable, words, several=use.several, param="tools")
                form.begun(use.callable)
                Grammars(words, VOCAB).start(
                    Structure("grammar", f"%llguidance {{}}\nstart: calls\n{rules}", param="tools")
                )

    return document(take)


def tools_seeds() -> Iterator[bytes]:
    from api.tools.test_parsers import WRITTEN

    properties = {"x": {"type": "integer"}, "y": {"enum": ["a", "b"]}}
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": properties}}}
    for _, text, *_ in WRITTEN:
        yield from dumped({"tools": [tool], "choice": "auto", "parallel": True, "reply": text})
    named = {"type": "function", "function": {"name": "f"}}
    yield from dumped({"tools": [tool], "choice": named, "parallel": False, "reply": ""})


TOOL_WORDS = (
    "<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]", "<|python_tag|>", "```json\n", "```",
    "```tool_code\n", '{"name": "f"', '"arguments": {', '"parameters": {', "f(x=1)", "[f(", "g()]", "}", "]", "{",
    '"', "\\", "\\u", "\ud800", "\0", "'", "1e999", "-", "name", "function", "parameters", "strict", "required",
    "any", "none", "allowed_tools", "mode", "type", "object", "properties", "\u2028", "<｜tool▁calls▁begin｜>",
    "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>",
)  # fmt: skip
