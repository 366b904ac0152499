"""Dense models to quantise, and little text to read."""

from __future__ import annotations

from pathlib import Path

import pytest

from befit.quantize import perplexity
from support.files import tiny_file


@pytest.fixture(scope="session")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GGUF file of 16-bit weights."""
    return tiny_file(tmp_path_factory.mktemp("dense") / "tiny.gguf", storage="f16", hidden=256, ffn=512, n_layers=1)


@pytest.fixture(autouse=True)
def short_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The beginnings of the built-in texts: a tiny model's tokens are single bytes."""
    whole = perplexity.text
    monkeypatch.setattr(perplexity, "text", lambda name: whole(name)[:400])
