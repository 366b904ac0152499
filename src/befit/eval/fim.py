"""Holes in the Python standard library: single lines and blocks of lines, and how near an answer comes to them.

A hole is a line with a whole statement, or 2 to 8 lines with whole statements, indent included, in a function with
something before and after it, as in Bavarian et al. (arXiv 2207.14255). Which holes depends on the seed and the Python
version. The standard library is on every machine; models have seen much of it, so figures compare servers and files of
one model with each other, not models.
"""

from __future__ import annotations

import ast
import random
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from befit.errors import ConfigError

BEFORE, AFTER = 800, 300
"""Characters around a hole that a model sees."""
LONGEST = 8
"""Lines of a hole."""
Kind: TypeAlias = Literal["line", "block"]


@dataclass(frozen=True, slots=True)
class Hole:
    """A cut. `middle` is what was there, without spaces at its end; line counts from 1."""

    module: str
    line: int
    prefix: str
    suffix: str
    middle: str


def make_holes(count: int, seed: int, kind: Kind = "line", folder: Path | None = None) -> list[Hole]:
    """`count` holes, each in another module of the folder (the standard library's). Raises ConfigError for too many."""
    rng = random.Random(seed)
    folder = folder or Path(sysconfig.get_path("stdlib"))
    paths = [path for path in sorted(folder.glob("*.py")) if not path.name.startswith("_")]
    rng.shuffle(paths)
    found: list[Hole] = []
    for path in paths:
        if len(found) == count:
            break
        text = path.read_text(encoding="utf-8")
        lines = text.splitlines(keepends=True)
        candidates = sorted(_lines(text, lines) if kind == "line" else _blocks(text, lines))
        if not candidates:
            continue
        start, end = rng.choice(candidates)
        middle = "".join(lines[start:end]).rstrip()
        prefix, suffix = "".join(lines[:start]), "\n" + "".join(lines[end:])
        found.append(Hole(path.name, start + 1, prefix[-BEFORE:], suffix[:AFTER], middle))
    if len(found) < count:
        raise ConfigError(f"There are {len(found)} modules with a hole; ask for at most that many.")
    return found


def _functions(text: str) -> Iterator[ast.AST]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _lines(text: str, lines: list[str]) -> set[tuple[int, int]]:
    """Lines of 10 to 80 characters where a simple statement begins and ends, without comments."""
    wanted = set()
    for function in _functions(text):
        for inner in ast.walk(function):
            if isinstance(inner, ast.stmt) and inner.lineno == inner.end_lineno and not _is_docstring(inner):
                line = lines[inner.lineno - 1]
                if 10 <= len(line.strip()) <= 80 and "#" not in line and ";" not in line:
                    wanted.add((inner.lineno - 1, inner.lineno))
    return wanted


def _blocks(text: str, lines: list[str]) -> set[tuple[int, int]]:
    """Runs of whole statements of one body that take 2 to `LONGEST` lines, without comments, docstrings or empty lines.

    The last statement of a function's body stays, so that something comes after.
    """
    wanted = set()
    for function in _functions(text):
        for inner in ast.walk(function):
            body = getattr(inner, "body", None)
            if not isinstance(body, list) or len(body) < 2 or not isinstance(inner, ast.stmt):
                continue
            for first in range(len(body) - 1):
                for last in range(first, len(body) - 1):
                    start, end = body[first].lineno - 1, body[last].end_lineno
                    cut = lines[start:end]
                    if len(cut) > LONGEST:
                        break
                    clean = all(line.strip() and "#" not in line and ";" not in line for line in cut)
                    if len(cut) >= 2 and clean and not any(map(_is_docstring, body[first : last + 1])):
                        wanted.add((start, end))
    return wanted


def fit(answer: str, hole: Hole) -> str:
    """As many lines of an answer as were cut, without spaces at the end: what is compared."""
    return "\n".join(answer.split("\n")[: hole.middle.count("\n") + 1]).rstrip()


def edit_similarity(one: str, other: str) -> float:
    """1 - Levenshtein distance / length of the longer; 1 for two empty texts."""
    longest = max(len(one), len(other))
    if not longest:
        return 1.0
    row = list(range(len(other) + 1))
    for i, left in enumerate(one, 1):
        before, row[0] = row[0], i
        for j, right in enumerate(other, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (left != right))
    return 1 - row[-1] / longest
