"""Dense models to quantise."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.files import tiny_file


@pytest.fixture(scope="session")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GGUF file of 16-bit weights."""
    return tiny_file(tmp_path_factory.mktemp("dense") / "tiny.gguf", storage="f16", hidden=256, ffn=512, n_layers=2)
