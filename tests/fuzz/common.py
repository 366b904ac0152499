"""What targets are made of. A target takes bytes; anything but a result or an error of befit's own is a finding."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

One = Callable[[bytes], None]
KEY = "tokenizer.ggml."
HI = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "there"}]


@dataclass(frozen=True)
class Target:
    """make() -> what takes one input. seeds() -> inputs to begin with. words: for JSON documents, what to put into
    them; without, bytes are changed. longest: bytes of an input."""

    make: Callable[[], One]
    seeds: Callable[[], Iterator[bytes]]
    words: tuple[str, ...] = ()
    longest: int = 4096


def document(take: Callable[[Any], None]) -> One:
    """An input that is JSON."""

    def one(data: bytes) -> None:
        try:
            value = json.loads(data)
        except (ValueError, RecursionError):
            return
        take(value)

    return one


def fields(value: Any, **defaults: Any) -> SimpleNamespace:
    """A document's fields, each a default where it is missing or of another type."""
    given = value if isinstance(value, dict) else {}
    return SimpleNamespace(
        **{
            name: given[name] if name in given and isinstance(given[name], type(default)) else default
            for name, default in defaults.items()
        }
    )


def dumped(*values: Any) -> Iterator[bytes]:
    for value in values:
        yield json.dumps(value).encode()


def folder_of(name: str) -> Path:
    return Path(tempfile.mkdtemp(prefix=f"befit-fuzz-{name}-"))
