"""Tiny models, built, and ways to change what was built."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from befit.prepared.manifest import _digest
from befit.prepared.write import build
from befit.store.layout import BUILD_MANIFEST
from support.files import tiny_file


def reseal(folder: Path, **changes: Any) -> None:
    """Write sizes and digests anew, as whoever makes a folder by hand could; `changes` are fields of the manifest."""
    path = folder / BUILD_MANIFEST
    fields = json.loads(path.read_bytes())
    fields.pop("sha256")
    for name in fields["files"]:
        data = (folder / name).read_bytes()
        fields["files"][name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    fields |= changes
    path.write_text(json.dumps({**fields, "sha256": _digest(fields)}))


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GGUF file with several formats in it."""
    kinds = {"attn_q": "q4_1", "attn_v": "q8_0", "ffn_down": "q5_0", "token_embd": "q8_0"}

    def storage(name: str) -> str:
        return next((kind for part, kind in kinds.items() if part in name), "f16")

    return tiny_file(tmp_path_factory.mktemp("source") / "tiny.gguf", storage=storage)


@pytest.fixture(scope="session")
def pristine(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built folder; tests that change it take a `copy`."""
    folder = tmp_path_factory.mktemp("built") / "tiny"
    build(source, folder, name="tiny:1b", threads=2)
    return folder


@pytest.fixture
def copy(pristine: Path, tmp_path: Path) -> Callable[[], Path]:
    """copy() -> a built folder of one's own, with a source of its own."""
    made = 0

    def make() -> Path:
        nonlocal made
        made += 1
        return Path(shutil.copytree(pristine, tmp_path / f"copy{made}"))

    return make
