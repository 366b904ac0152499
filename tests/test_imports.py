"""Imports between the rooms of the house point one way."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import befit.errors

ORDER = (
    "cli",
    "doctor",
    "eval",
    "bench",
    "llm",
    "api",
    "engine",
    "sched",
    "cache",
    "quantize",
    "plan",
    "prepared",
    "backends",
    "models",
    "tokenizer",
    "weights",
    "store",
    "sampling",
    "watermark",
    "structure",
    "config",
    "disk",
    "heap",
    "errors",
)
ROOT = Path(befit.errors.__file__).parent
ENTRANCE = "__init__"  # befit/__init__.py hands out names from every room, and no room may ask it for one


def room(path: Path) -> str:
    """The room that a file is in; a module beside the rooms is one by itself."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def targets(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and room of everything of befit that the code imports, also inside functions and for type checkers only."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                parts = alias.name.split(".")
                if parts[0] == "befit" and len(parts) > 1:
                    yield node.lineno, parts[1]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "befit":
            if node.attr != "__version__":
                yield node.lineno, node.attr if node.attr in ORDER else ENTRANCE
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno} has a relative import; name the module in full"
            parts = (node.module or "").split(".")
            if parts[0] != "befit":
                continue
            if len(parts) > 1:
                yield node.lineno, parts[1]
            else:
                names = (alias.name for alias in node.names if alias.name != "__version__")
                yield from ((node.lineno, name if name in ORDER else ENTRANCE) for name in names)


def arrows_back(path: Path) -> list[str]:
    """The imports in a file that point to a room on its left."""
    source = room(path)
    assert source in ORDER, f"{source} is a new room: give it its place in ORDER"
    found = []
    for line, target in targets(ast.parse(path.read_text(encoding="utf-8"))):
        if target not in ORDER or ORDER.index(target) < ORDER.index(source):
            found.append(f"{path.relative_to(ROOT)}:{line}: {source} imports {target}")
    return found


def test_every_arrow_points_right() -> None:
    files = [path for path in ROOT.rglob("*.py") if room(path) != ENTRANCE]
    assert len(files) > 30
    assert [arrow for path in sorted(files) for arrow in arrows_back(path)] == []


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import befit.api.app", ["api"]),
        ("def f():\n    from befit.engine.core import Engine", ["engine"]),
        ("from befit import models, LLM", ["models", "__init__"]),
        ("import befit\nprint(befit.__version__, befit.LLM)", ["__init__"]),
        ("from befit import __version__", []),
        ("import numpy, os.path\nfrom collections import abc", []),
    ],
)
def test_what_counts_as_an_arrow(code: str, expected: list[str]) -> None:
    assert [target for _, target in targets(ast.parse(code))] == expected
