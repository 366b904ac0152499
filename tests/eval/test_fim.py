"""Holes, and how near an answer is."""

from __future__ import annotations

import ast
import sysconfig
import textwrap
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from befit.errors import ConfigError
from befit.eval.fim import AFTER, BEFORE, LONGEST, Hole, Kind, edit_similarity, fit, make_holes


@pytest.mark.parametrize("kind", get_args(Kind))
def test_a_hole_is_whole_statements_with_text_around(kind: Kind) -> None:
    holes = make_holes(12, 3, kind)
    assert make_holes(12, 3, kind) == holes != make_holes(12, 4, kind)
    assert len({hole.module for hole in holes}) == 12
    for hole in holes:
        text = (Path(sysconfig.get_path("stdlib")) / hole.module).read_text()
        lines = hole.middle.count("\n") + 1
        assert text.split("\n")[hole.line - 1 : hole.line - 1 + lines] == hole.middle.split("\n")
        assert hole.prefix + hole.middle + hole.suffix in text
        assert 0 < len(hole.prefix) <= BEFORE
        assert 0 < len(hole.suffix.strip()) <= AFTER
        assert lines == 1 if kind == "line" else 2 <= lines <= LONGEST
        body = textwrap.dedent(hole.middle)
        if not body.startswith(("else", "elif", "except", "finally")) and kind == "block":
            ast.parse(f"async def f():\n for _ in ():\n{textwrap.indent(body, '  ')}")


def test_more_holes_than_modules_are_refused(tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text("def f(a):\n    b = a + 1234\n    return b\n")
    (tmp_path / "none.py").write_text("x = 1\n")
    assert [hole.module for hole in make_holes(1, 0, folder=tmp_path)] == ["one.py"]
    with pytest.raises(ConfigError, match="1 modules"):
        make_holes(2, 0, folder=tmp_path)


def test_an_answer_counts_as_far_as_was_cut() -> None:
    assert fit("    a = 1  \n    b = 2", Hole("m", 1, "", "", "    a = 1")) == "    a = 1"
    assert fit("a\nb\nc", Hole("m", 1, "", "", "a\nb")) == "a\nb"
    assert fit("a", Hole("m", 1, "", "", "a\nb")) == "a"


def test_similarity_of_known_pairs() -> None:
    assert edit_similarity("", "") == 1
    assert edit_similarity("abc", "") == 0
    assert edit_similarity("kitten", "sitting") == pytest.approx(1 - 3 / 7)


@given(st.text("ab", max_size=6), st.text("ab", max_size=6), st.text("ab", max_size=6))
def test_distance_is_a_metric(a: str, b: str, c: str) -> None:
    def distance(x: str, y: str) -> float:
        return round((1 - edit_similarity(x, y)) * max(len(x), len(y)))

    assert (distance(a, b) == 0) == (a == b)
    assert distance(a, b) == distance(b, a)
    assert distance(a, c) <= distance(a, b) + distance(b, c)
