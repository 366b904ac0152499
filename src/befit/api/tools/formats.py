"""How each model family writes tool calls: how to read them, how to force them, and how to tell a model about them.

The formats are those of the families' own chat templates and documentation:
hermes    Hermes 2 Pro, Qwen2.5, Qwen3, SmolLM: `<tool_call>\\n{"name": …, "arguments": {…}}\\n</tool_call>` a call;
          also understood without the markers, as `json`
llama3    Llama 3.1 to 3.3, JSON: `{"name": …, "parameters": {…}}` is the message, perhaps after `<|python_tag|>`
pythonic  Llama 3.2 (small) and 4: `[f(a=1), g()]` is the message
mistral   `[TOOL_CALLS][{"name": …, "arguments": {…}}]`, or `[TOOL_CALLS]name[ARGS]{…}` (tokeniser version 11 and later)
deepseek  V2.5, V3, R1 and V3.1: calls between `<｜tool▁calls▁begin｜>` and `<｜tool▁calls▁end｜>`
gemma     Gemma 3: JSON as Llama's, in a code fence or not, or Python in a `tool_code` fence
json      any model: `{"name": …, "arguments": {…}}`, or a list of such, is the message
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from befit.api.tools.json_calls import JsonCalls
from befit.api.tools.parsers import DeepSeekCalls, EitherParser, MarkedParser, NamedCall, WholeParser
from befit.api.tools.pieces import Numbering, ToolParser
from befit.structure import schema_text
from befit.tokenizer.base import Tokenizer

_MOST_CALLS = 32
"""In one message, where the grammar has a say."""

_FENCES = ("```json\n", "```\n")
_GEMMA_FENCES = ("```tool_code\n", "```json\n", "```tool_call\n", "```python\n")
_PYTHON_TAG = "<|python_tag|>"


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that may be called. `parameters` is a JSON schema. strict: a keyword of it that the grammar does not
    know is an error; otherwise it is left out."""

    name: str
    parameters: Mapping[str, Any]
    strict: bool = False


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """One way to write calls.

    call     what a call consists of: text before its name, between name and arguments, and behind them
    around   what begins, separates and ends the calls of a message
    parser   (names of the tools, numbering) -> reads calls
    trigger  what begins `around` and can mean nothing else: behind it, calls are confined to what they must be
    bare     what may stand before a message that is just a call's JSON; once its name is there, it is confined too
    markers  spellings that may be control tokens, to be shown to the parser all the same
    short_ids  ids of calls are nine letters and digits
    """

    name: str
    call: tuple[str, str, str]
    around: tuple[str, str, str]
    parser: Callable[[Collection[str], Numbering], ToolParser]
    trigger: str = ""
    bare: tuple[str, ...] = ()
    markers: tuple[str, ...] = ()
    short_ids: bool = False

    def read(self, tools: Collection[str]) -> ToolParser:
        """A parser for one message."""
        return self.parser(tools, Numbering(short=self.short_ids))

    def shown_tokens(self, tokenizer: Tokenizer) -> tuple[int, ...]:
        """Ids of the markers that are control tokens."""
        ids = (tokenizer.token_id(marker) for marker in self.markers)
        return tuple(token for token in ids if token is not None and tokenizer.is_special(token))

    def write(self, calls: Sequence[tuple[str, str]]) -> str:
        """Calls, as (name, arguments as JSON), as the model would write them."""
        before, between, after = self.call
        begin, separator, end = self.around
        texts = [f"{before}{_inner(name)}{between}{arguments}{after}" for name, arguments in calls]
        return begin + separator.join(texts) + end

    def grammar(self, tools: Sequence[Tool], tokenizer: Tokenizer, *, several: bool, param: str) -> str:
        """Rules in Lark: `calls`, of a whole message with calls; `triggered`, of what follows the trigger; `begun`, of
        what follows a match of `begun` (see `Structure.begun`).

        several: more than one call. param: the request field that errors name.
        """
        before, between, after = self.call
        begin, separator, end = self.around

        def text(value: str) -> str:
            return _terminals(value, self.markers, tokenizer)

        more = f"({text(separator)} call){{0,{_MOST_CALLS - 1}}}" if several else ""
        rules = [
            f"calls: {text(begin)} call {more} {text(end)}",
            f"call: {text(before)} pick {text(after)}",
            "pick: " + " | ".join(f"pick_{at}" for at in range(len(tools))),
        ]
        if self.trigger:
            # Where every call has the trigger, the structure is complete behind one, and begins anew at the next.
            listed = "" if self.trigger in separator else more
            rules.append(f"triggered: {text(begin.removeprefix(self.trigger))} call {listed} {text(end)}")
        if self.bare:
            starts = [json.dumps(f"\x02{_inner(tool.name)}\n") for tool in tools]
            begun = " | ".join(f"{start} BLANK? arguments_{at}" for at, start in enumerate(starts))
            rules += [f'begun: ({begun}) BLANK? "}}"', "BLANK: /[ \\t\\r\\n]{1,40}/"]
        for at, tool in enumerate(tools):
            schema = schema_text(dict(tool.parameters), lenient=not tool.strict, param=param)
            rules += [
                f"pick_{at}: {text(_inner(tool.name) + between)} arguments_{at}",
                f"arguments_{at}: %json {schema}",
            ]
        return "\n".join(rules)

    def begun(self, tools: Sequence[Tool]) -> str:
        """A regular expression for a message, or the rest of one, that is just a call's JSON: all before its arguments.
        The group is the tool's name."""
        names, before = ("|".join(map(re.escape, each)) for each in ([_inner(tool.name) for tool in tools], self.bare))
        gap = r"\s{0,40}"
        head = rf'[\s,;]{{0,40}}(?:{before}){gap}(?:\[{gap})?\{{{gap}"name"{gap}:{gap}"({names})"'
        return rf'{head}{gap},{gap}"(?:arguments|parameters)"{gap}:'


def _inner(name: str) -> str:
    """A name within the quotes of JSON."""
    return json.dumps(name, ensure_ascii=False)[1:-1]


def _terminals(text: str, markers: tuple[str, ...], tokenizer: Tokenizer) -> str:
    """Text as Lark's terminals; markers in it that are control tokens are those tokens."""
    for marker in markers:
        token = tokenizer.token_id(marker)
        if marker in text and token is not None and tokenizer.is_special(token):
            parts = (_terminals(part, markers, tokenizer) for part in text.split(marker))
            return f" <[{token}]> ".join(parts)
    return json.dumps(text) if text else ""


def _hermes(tools: Collection[str], numbering: Numbering) -> ToolParser:
    def body() -> JsonCalls:
        return JsonCalls(numbering, opening="<tool_call>", closing="</tool_call>", known=None)

    whole = WholeParser(tools, numbering, openings=_FENCES)
    return EitherParser(whole, MarkedParser("<tool_call>", body))


def _mistral(tools: Collection[str], numbering: Numbering) -> ToolParser:
    separators = ("[CALL_ID]", "[ARGS]")
    return MarkedParser("[TOOL_CALLS]", lambda: NamedCall(numbering, "[TOOL_CALLS]", separators))


def _deepseek(tools: Collection[str], numbering: Numbering) -> ToolParser:
    return MarkedParser(DeepSeekCalls.BEGIN, lambda: DeepSeekCalls(numbering))


def _llama3(tools: Collection[str], numbering: Numbering) -> ToolParser:
    return WholeParser(tools, numbering, openings=(_PYTHON_TAG,))


def _pythonic(tools: Collection[str], numbering: Numbering) -> ToolParser:
    return WholeParser(tools, numbering, openings=(_PYTHON_TAG,), python=True)


def _gemma(tools: Collection[str], numbering: Numbering) -> ToolParser:
    return WholeParser(tools, numbering, openings=_GEMMA_FENCES, python=True)


def _json(tools: Collection[str], numbering: Numbering) -> ToolParser:
    return WholeParser(tools, numbering, openings=_FENCES)


_ARGUMENTS = ('{"name": "', '", "arguments": ', "}")
_PARAMETERS = ('{"name": "', '", "parameters": ', "}")
_DEEPSEEK_MARKERS = (
    DeepSeekCalls.BEGIN,
    DeepSeekCalls.END,
    DeepSeekCalls.CALL,
    DeepSeekCalls.SEPARATOR,
    DeepSeekCalls.CALL_END,
)

HERMES = ToolFormat(
    "hermes",
    _ARGUMENTS,
    ("<tool_call>\n", "\n</tool_call>\n<tool_call>\n", "\n</tool_call>"),
    _hermes,
    "<tool_call>",
    ("", *_FENCES),
    ("<tool_call>", "</tool_call>"),
)
LLAMA3 = ToolFormat("llama3", _PARAMETERS, ("", "; ", ""), _llama3, bare=("", _PYTHON_TAG), markers=(_PYTHON_TAG,))
PYTHONIC = ToolFormat(
    "pythonic", _PARAMETERS, ("", "; ", ""), _pythonic, bare=("", _PYTHON_TAG), markers=(_PYTHON_TAG,)
)
MISTRAL = ToolFormat(
    "mistral",
    _ARGUMENTS,
    ("[TOOL_CALLS][", ", ", "]"),
    _mistral,
    "[TOOL_CALLS]",
    (),
    ("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"),
    short_ids=True,
)
MISTRAL_NAMED = ToolFormat(
    "mistral",
    ("", "[ARGS]", ""),
    ("[TOOL_CALLS]", "[TOOL_CALLS]", ""),
    _mistral,
    "[TOOL_CALLS]",
    (),
    ("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"),
    short_ids=True,
)
DEEPSEEK = ToolFormat(
    "deepseek",
    ("<｜tool▁call▁begin｜>function<｜tool▁sep｜>", "\n```json\n", "\n```<｜tool▁call▁end｜>"),
    (DeepSeekCalls.BEGIN, "\n", DeepSeekCalls.END),
    _deepseek,
    DeepSeekCalls.BEGIN,
    (),
    _DEEPSEEK_MARKERS,
)
DEEPSEEK_V31 = ToolFormat(
    "deepseek",
    ("<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"),
    (DeepSeekCalls.BEGIN, "", DeepSeekCalls.END),
    _deepseek,
    DeepSeekCalls.BEGIN,
    (),
    _DEEPSEEK_MARKERS,
)
GEMMA = ToolFormat("gemma", _PARAMETERS, ("", "; ", ""), _gemma, bare=("", *_GEMMA_FENCES))
JSON = ToolFormat("json", _ARGUMENTS, ("", ", ", ""), _json, bare=("", *_FENCES))

NAMES = ("hermes", "llama3", "pythonic", "mistral", "deepseek", "gemma", "json")


def detect(template: str, takes_tools: bool, tokenizer: Tokenizer, name: str | None = None) -> tuple[ToolFormat, str]:
    """The format of a model, and why; `name`, one of NAMES, overrides the choice among families.

    The template that writes earlier calls shows how the model is to write its own. A model whose template knows no
    tools is told a format in the system message: Gemma's own, or Hermes', which most chat models have seen.
    """
    v11 = "[ARGS]" in template
    v31 = DeepSeekCalls.SEPARATOR in template and "```json" not in template
    formats = {
        "hermes": HERMES,
        "llama3": LLAMA3,
        "pythonic": PYTHONIC,
        "mistral": MISTRAL_NAMED if v11 else MISTRAL,
        "deepseek": DEEPSEEK_V31 if v31 else DEEPSEEK,
        "gemma": GEMMA,
        "json": JSON,
    }
    if name is not None:
        return formats[name], "as asked for"
    if takes_tools:
        for sign, family in (
            ("[TOOL_CALLS]", "mistral"),
            (DeepSeekCalls.BEGIN, "deepseek"),
            ("<tool_call>", "hermes"),
            ("[func_name1(", "pythonic"),
            ('"parameters"', "llama3"),
        ):
            if sign in template:
                return formats[family], f"the chat template has {sign}"
    if tokenizer.token_id("<start_of_turn>") is not None:
        return GEMMA, "the vocabulary has <start_of_turn>"
    if takes_tools:
        return JSON, "the chat template writes tools in a way of no family befit knows"
    return HERMES, "the chat template has no place for tools, so befit describes them in the system message"
