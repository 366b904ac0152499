"""Calls are found in what models write, however the text was cut into pieces."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from befit.api.message import MessageParser
from befit.api.reasoning import ReasoningFormat, ReasoningSplitter
from befit.api.tools import formats
from befit.api.tools.formats import ToolFormat

FORMATS = {
    "hermes": formats.HERMES,
    "llama3": formats.LLAMA3,
    "pythonic": formats.PYTHONIC,
    "mistral": formats.MISTRAL,
    "mistral 11": formats.MISTRAL_NAMED,
    "deepseek": formats.DEEPSEEK,
    "deepseek 3.1": formats.DEEPSEEK_V31,
    "gemma": formats.GEMMA,
    "json": formats.JSON,
}
F = '{"name": "f", "arguments": {"x": 1}}'
P = '{"name": "f", "parameters": {"x": 1}}'
G = '{"name": "g", "arguments": {}}'
FX = ("f", '{"x": 1}')
GX = ("g", "{}")
DS = "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>"


def fenced(name: str, arguments: str) -> str:
    return f"function<｜tool▁sep｜>{name}\n```json\n{arguments}\n```<｜tool▁call▁end｜>"


WRITTEN = [
    ("hermes", f"<tool_call>\n{F}\n</tool_call>", "", [FX]),
    ("hermes", f"Let me.\n\n<tool_call>\n{F}\n</tool_call>\n<tool_call>\n{G}\n</tool_call>", "Let me.", [FX, GX]),
    ("hermes", f"<tool_call>[{F}, {G}]</tool_call>", "", [FX, GX]),
    ("hermes", f"<tool_call>{F}", "", [FX]),
    ("hermes", f"<tool_call>\n{F}}}\n</tool_call>", "", [FX]),
    ("hermes", f"<tool_call>{F}</tool_call> done", " done", [FX]),
    ("hermes", "if a <b: <tool_calls", "if a <b: <tool_calls", []),
    ("hermes", "<tool_call>\nnothing\n</tool_call>", "<tool_call>\nnothing\n</tool_call>", []),
    ("hermes", '<tool_call>{"nom": 1}</tool_call>', '<tool_call>{"nom": 1}</tool_call>', []),
    ("hermes", "<tool_call></tool_call>", "<tool_call></tool_call>", []),
    ("hermes", f"```json\n{F}\n```", "", [FX]),
    ("hermes", f"{F}\n{G}", "", [FX, GX]),
    ("hermes", '{"name": "Bob", "age": 3}', '{"name": "Bob", "age": 3}', []),
    ("hermes", '```json\n{"name": "Bob"}\n```', '```json\n{"name": "Bob"}\n```', []),
    ("hermes", "  plain\ntext \n", "  plain\ntext \n", []),
    ("hermes", '<tool_call>{"arguments": {"x": [{"y": "}"}]}, "name": "f"}', "", [("f", '{"x": [{"y": "}"}]}')]),
    ("hermes", '<tool_call>{"name": "f", "arguments": "{\\"x\\": 1}"}</tool_call>', "", [FX]),
    ("hermes", '<tool_call>{"name": "f", "arguments": null}</tool_call>', "", [("f", "{}")]),
    ("hermes", '<tool_call>{"name": "f"}</tool_call>', "", [("f", "{}")]),
    ("hermes", f'<tool_call>{{"type": "function", "function": {F}}}</tool_call>', "", [FX]),
    ("hermes", '<tool_call>{"name": "f", "arguments": {"x": "\\"}</tool"}}', "", [("f", '{"x": "\\"}</tool"}')]),
    ("llama3", P, "", [FX]),
    ("llama3", f"<|python_tag|>{P}", "", [FX]),
    ("llama3", f'{{"type": "function", "name": "f", "parameters": {{"x": 1}}}}; {P}', "", [FX, FX]),
    ("llama3", '{"name": "Bob"}', '{"name": "Bob"}', []),
    ("llama3", "{}", "{}", []),
    ("llama3", "Hello {name}", "Hello {name}", []),
    ("pythonic", '[f(x=1), g(s="(", l=[None, {"k": True}])]', "", [FX, ("g", '{"s": "(", "l": [null, {"k": true}]}')]),
    ("pythonic", "[f(x=-1.5)]", "", [("f", '{"x": -1.5}')]),
    ("pythonic", "[1, 2, 3]", "[1, 2, 3]", []),
    ("pythonic", "[f(__import__('os'))]", "[f(__import__('os'))]", []),
    ("pythonic", "[f(x=open('a'))] is", "[f(x=open('a'))] is", []),
    ("pythonic", "print(3) writes 3", "print(3) writes 3", []),
    ("pythonic", "f", "f", []),
    ("mistral", f"[TOOL_CALLS][{F}, {G}]", "", [FX, GX]),
    ("mistral", f"[TOOL_CALLS] [{F}]", "", [FX]),
    ("mistral", '[TOOL_CALLS]f[ARGS]{"x": 1}[TOOL_CALLS]g[ARGS]{}', "", [FX, GX]),
    ("mistral", '[TOOL_CALLS]f[CALL_ID]123456789[ARGS]{"x": 1}', "", [FX]),
    ("mistral", "[1, 2] [TOOL", "[1, 2] [TOOL", []),
    ("deepseek", f'{DS}{fenced("f", FX[1])}\n{DS[20:]}{fenced("g", "{}")}<｜tool▁calls▁end｜>', "", [FX, GX]),
    ("deepseek", f'Well.{DS}f<｜tool▁sep｜>{{"x": 1}}<｜tool▁call▁end｜><｜tool▁calls▁end｜>', "Well.", [FX]),
    ("gemma", f"```json\n{P}\n```", "", [FX]),
    ("gemma", "```tool_code\nf(x=1)\n```", "", [FX]),
    ("gemma", "```python\nprint(1)\n```", "```python\nprint(1)\n```", []),
    ("json", F, "", [FX]),
    ("json", f"[{F}, {G}]", "", [FX, GX]),
    ("json", "[1]", "[1]", []),
]  # fmt: skip


def read(form: ToolFormat, pieces: list[str]) -> tuple[str, list[tuple[str, str]]]:
    message = MessageParser(None, form.read({"f", "g"}))
    text, calls = "", []
    for part in [part for piece in pieces for part in message.push(piece)] + message.finish():
        if isinstance(part, str):
            assert part, "an empty piece"
            text += part
        elif part.name is not None:
            assert part.index == len(calls)
            assert part.id
            calls.append((part.name, part.arguments))
        else:
            assert part.index == len(calls) - 1
            calls[-1] = (calls[-1][0], calls[-1][1] + part.arguments)
    return text, calls


@pytest.mark.parametrize(("form", "text", "content", "calls"), WRITTEN)
def test_what_models_write(form: str, text: str, content: str, calls: list[tuple[str, str]]) -> None:
    assert read(FORMATS[form], [text]) == (content, calls)
    assert read(FORMATS[form], list(text)) == (content, calls), "a character at a time"


@settings(max_examples=150)
@given(case=st.sampled_from(WRITTEN), cuts=st.lists(st.integers(0, 200), max_size=6))
def test_pieces_make_no_difference(case: tuple[str, str, str, list[Any]], cuts: list[int]) -> None:
    form, text, content, calls = case
    ends = sorted({min(cut, len(text)) for cut in cuts} | {len(text)})
    pieces = [text[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    assert read(FORMATS[form], pieces) == (content, calls)


names = st.sampled_from(["f", "g"])
arguments = st.dictionaries(
    st.text(max_size=5),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=5,
    ),
    max_size=3,
)


@settings(max_examples=100)
@given(
    form=st.sampled_from(sorted(FORMATS)),
    calls=st.lists(st.tuples(names, arguments), min_size=1, max_size=3),
    step=st.integers(1, 9),
)
def test_calls_are_read_as_they_are_written(form: str, calls: list[tuple[str, dict[str, Any]]], step: int) -> None:
    written = [(name, json.dumps(values, ensure_ascii=False)) for name, values in calls]
    text = FORMATS[form].write(written)
    assert read(FORMATS[form], [text[at : at + step] for at in range(0, len(text), step)]) == ("", written)


MARKS = ["<tool_call>", "</tool_call>", "[TOOL_CALLS]", DS, "<｜tool▁sep｜>", '"name"', '"f"', "f(", "```json\n"]
MARKS += list("{}[]):, x")


@settings(max_examples=250)
@given(form=st.sampled_from(sorted(FORMATS)), marks=st.lists(st.sampled_from(MARKS), max_size=12))
def test_any_text_is_read_alike_in_any_pieces(form: str, marks: list[str]) -> None:
    text = "".join(marks)
    whole = read(FORMATS[form], [text])
    assert read(FORMATS[form], list(text)) == whole
    if not whole[1]:
        assert whole[0].split() == text.split() or form.startswith(("deepseek", "mistral"))


def test_arguments_come_as_they_are_written() -> None:
    message = MessageParser(None, formats.HERMES.read({"f"}))
    pieces = ['<tool_call>{"name": "f", "argu', 'ments": {"x": ', '"lo', 'ng"', "}}", "</tool_call>"]
    deltas = [[part.arguments for part in message.push(piece)] for piece in pieces]
    assert deltas == [[""], ['{"x": '], ['"lo'], ['ng"'], ["}"], []]


def test_ids_suit_the_family() -> None:
    assert formats.HERMES.read({"f"}).push(f"<tool_call>{F}")[0].id.startswith("call_")
    assert len(formats.MISTRAL.read({"f"}).push(f"[TOOL_CALLS][{F}]")[0].id) == 9


THINK = ReasoningFormat("<think>", "</think>", ())


@pytest.mark.parametrize(
    ("text", "opened", "thoughts", "answer"),
    [
        ("<think>\nhm\n\n</think>\n\nYes.\n", False, "hm", "Yes.\n"),
        ("hm, <b></think>Yes", True, "hm, <b>", "Yes"),
        ("\n<think></think> Yes", False, "", "Yes"),
        ("Yes <think>no</think>", False, "", "Yes <think>no</think>"),
        (" Yes", False, "", " Yes"),
        ("<thin", False, "", "<thin"),
        ("<think>cut </thi", False, "cut </thi", ""),
        ("", False, "", ""),
    ],
)
def test_thoughts_apart_from_the_answer(text: str, opened: bool, thoughts: str, answer: str) -> None:
    for step in (1, 2, 3, 100):
        splitter = ReasoningSplitter(THINK, opened=opened)
        parts = [splitter.push(text[at : at + step]) for at in range(0, len(text), step)] + [splitter.finish()]
        assert ("".join(part[0] for part in parts), "".join(part[1] for part in parts)) == (thoughts, answer)


def test_calls_behind_thoughts() -> None:
    parser = MessageParser(ReasoningSplitter(THINK, opened=False), formats.HERMES.read({"f"}))
    message = parser.whole(f"<think>I call <tool_call></think>\n<tool_call>{F}</tool_call>")
    assert (message.reasoning, message.text) == ("I call <tool_call>", "")
    assert [(call.name, call.arguments) for call in message.calls] == [FX]
