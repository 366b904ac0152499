"""The loop guard: loops end soon, and whatever real files repeat goes through."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from befit.engine.core import Engine
from befit.engine.load import LoadedModel
from befit.engine.loops import CHECK_EVERY, LoopGuard, wanted
from befit.engine.outputs import LOOP_STOP_REASON, Delta
from befit.sampling import SamplingParams


class Words:
    """A tokeniser as those of models: words with the space before them, single digits and punctuation, spaces."""

    pattern = re.compile(r" ?[^\W\d_]+|\d| *\n| +|.")

    def __init__(self) -> None:
        self.ids: dict[str, int] = {}
        self.pieces: list[str] = []

    def encode(self, text: str) -> list[int]:
        for piece in self.pattern.findall(text):
            if piece not in self.ids:
                self.ids[piece] = len(self.pieces)
                self.pieces.append(piece)
        return [self.ids[piece] for piece in self.pattern.findall(text)]

    def decode(self, ids: list[int], *, skip_special: bool = True) -> str:
        return "".join(self.pieces[token] for token in ids)

    def token_bytes(self, token: int, *, skip_special: bool = True) -> bytes:
        return self.pieces[token].encode()


def ends(text: str) -> int | None:
    """After how many tokens the guard ends a text; None: it does not."""
    tokenizer: Any = Words()
    guard = LoopGuard(tokenizer)
    return next((count for count, token in enumerate(tokenizer.encode(text), 1) if guard.push(token)), None)


def lines(template: str, numbers: Iterable[int]) -> str:
    return "\n".join(template.format(n) for n in numbers)


PROSE = "The loop guard compares the newest part of an output with what came before, and counts how long they agree. "
CODE = (
    "def read(path):\n    with open(path) as file:\n        return file.read()\n\n\nif __name__ in names:\n    go()\n"
)


@pytest.mark.parametrize(
    "cycle",
    [
        " very",
        "import tempfile\n",
        "I'm not sure what to say. ",
        "        self.assertEqual(math.pow(1, 0), 1)\n",
        "    { name: String, required: true },\n    { text: String, required: false },\n",
        "def first(x):\n    return second(x)\n\n\ndef second(x):\n    return first(x)\n\n\n",
        "无法访问该文件，请检查路径是否正确。",
    ],
)
def test_words_that_repeat_end_within_200_tokens_of_the_first_repeated_one(cycle: str) -> None:
    begin = PROSE + CODE
    copies = begin + cycle * 200
    start = len(Words().encode(begin + cycle))
    at = ends(copies)
    assert at is not None
    assert start < at <= start + 200


@pytest.mark.parametrize("cycle", ["\n", "# \n", "-", "| | |\n", "=\n"])
def test_blank_lines_and_separators_without_end_are_loops_too(cycle: str) -> None:
    at = ends(PROSE + cycle * 2000)
    assert at is not None
    assert at <= len(Words().encode(PROSE)) + 250


def test_long_cycles_need_three_copies() -> None:
    cycle = "".join(f"Part {name} is about {name}{name}, which nobody has read. " for name in "abcdefghijklmnop")
    assert ends(PROSE + cycle * 2 + CODE) is None
    assert ends(PROSE + cycle * 4) is not None


def test_numbers_in_one_line_get_longer() -> None:
    assert ends("x = [" + "0, " * 80 + "0]\n" + CODE) is None
    assert ends("x = [" + "0, " * 1000) is not None


@pytest.mark.parametrize(
    "text",
    [
        "TABLE = [\n" + ("    " + "0, " * 16 + "\n") * 12 + "]\n" + CODE,
        "MASK = (\n" + "    None,\n" * 150 + ")\n",
        "    " * 60 + "deep = 1\n" + "    " * 61 + "deeper = 2\n",
        "".join("    " * depth + f"if a{depth}:\n" for depth in range(60)),
        "#" * 150 + "\n" + CODE + "#" * 150 + "\n",
        "+---+---+---+\n|   | o | x |\n" * 8 + CODE,
        lines("{0}, {0}", (n * n % 9973 for n in range(2000))),
        lines("    0x{0:04x}: 0x{0:04x},", [n * n for n in range(1500)]),
        lines("    self.assertEqual(square({0}), 4)", [n * n % 101 for n in range(60)]),
        lines("#define KEY_F{0}  {0}", range(64)),
        PROSE * 2 + CODE * 2 + PROSE * 2,
    ],
    ids=[
        "zeros",
        "nones",
        "deep",
        "deeper",
        "rulers",
        "art",
        "csv",
        "hex table",
        "asserts",
        "defines",
        "text",
    ],
)
def test_what_files_repeat_goes_through(text: str) -> None:
    assert ends(text) is None


@pytest.mark.parametrize("template", ["{0}. Eve Adams", "{0},", "    case {0}: return {0};"])
def test_counting_without_end_is_a_loop(template: str) -> None:
    assert ends(lines(template, range(250))) is None
    assert ends(lines(template, range(2000))) is not None


def test_counting_in_unequal_steps_is_a_table() -> None:
    assert ends(lines("{0},", (n * n for n in range(3000)))) is None


@given(st.lists(st.integers(0, 5), min_size=1, max_size=400), st.integers(1, 40))
def test_the_guard_speaks_only_where_a_period_holds(tokens: list[int], tail: int) -> None:
    tokenizer: Any = Words()
    tokenizer.pieces = [" one", " two", " three", " four", " five", " six"]
    stream = tokens + tokens[-tail:] * (300 // tail)
    guard = LoopGuard(tokenizer)
    for count, token in enumerate(stream, 1):
        if guard.push(token):
            assert count % CHECK_EVERY == 0
            assert any(
                stream[count - 128 : count] == stream[count - 128 - period : count - period]
                for period in range(1, count - 127)
            )
            return
    assert len(set(tokens[-tail:])) > 0
    assert len(stream) < 350 or tail > 16


# -- which requests are guarded ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "auto", "on", "off"),
    [
        ({}, True, True, False),
        ({"max_tokens": 50}, False, True, False),
        ({"max_tokens": 50, "editor": True}, True, True, False),
        ({"max_tokens": 50, "editor": True, "loop_guard": False}, False, False, False),
        ({"ignore_eos": True}, False, False, False),
        ({"loop_guard": True, "ignore_eos": True, "max_tokens": 50}, True, True, True),
        ({"loop_guard": False}, False, False, False),
    ],
)
def test_the_request_decides_and_then_the_server(params: dict[str, Any], auto: bool, on: bool, off: bool) -> None:
    wish = SamplingParams(**params)
    assert [wanted(wish, setting) for setting in ("auto", "on", "off")] == [auto, on, off]


def outcome(engine: Engine, **wishes: Any) -> tuple[list[int], Delta]:
    request = engine.add_request([5, 6], SamplingParams(temperature=0, **wishes))
    deltas = []
    while engine.has_work:
        deltas += [delta for owner, delta in engine.step() if owner is request]
        engine.scheduler.check_integrity()
    assert engine.scheduler.pool.n_used == 0
    return [token for delta in deltas for token in delta.token_ids], deltas[-1]


@pytest.fixture
def looping(make_model: Callable[..., LoadedModel]) -> Callable[..., Engine]:
    """An engine whose next token depends on the last one only, so that outputs run into a cycle."""
    return lambda **changes: Engine(make_model(order=1, ctx=1024, n_blocks=256, **changes))


@pytest.mark.parametrize("speculation", ["off", "lookup"])
def test_a_loop_ends_with_a_reason_that_clients_know(looping: Callable[..., Engine], speculation: str) -> None:
    engine = looping(speculation=speculation)
    tokens, last = outcome(engine)
    assert (last.finish_reason, last.stop_reason) == ("stop", LOOP_STOP_REASON)
    assert 128 < len(tokens) < 400
    assert engine.stats().loops_total == 1
    unguarded, end = outcome(engine, loop_guard=False)
    assert (end.finish_reason, len(unguarded)) == ("length", 1022)
    assert unguarded[: len(tokens)] == tokens
    assert engine.stats().loops_total == 1


def test_no_loop_before_min_tokens(looping: Callable[..., Engine]) -> None:
    tokens, last = outcome(looping(), min_tokens=600)
    assert last.stop_reason == LOOP_STOP_REASON
    assert 600 < len(tokens) <= 600 + CHECK_EVERY


def test_requests_without_max_tokens_get_the_servers(looping: Callable[..., Engine]) -> None:
    engine = looping(max_output_tokens=50)
    assert len(outcome(engine, loop_guard=False)[0]) == 50
    assert len(outcome(engine, max_tokens=90)[0]) == 90
    assert len(outcome(engine, loop_guard=False, min_tokens=70)[0]) == 70
