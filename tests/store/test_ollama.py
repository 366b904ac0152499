"""Ollama's models are read where they lie."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from befit import store
from befit.errors import ConfigError, CorruptFile, ModelNotFound, UnsupportedModel
from befit.store import ollama

WEIGHTS = b"GGUF and so on"
DIGEST = hashlib.sha256(WEIGHTS).hexdigest()
TYPE = "application/vnd.ollama.image."
MODEL = {"mediaType": f"{TYPE}model", "digest": f"sha256:{DIGEST}", "size": len(WEIGHTS)}
OTHERS = [{"mediaType": f"{TYPE}{kind}", "digest": "sha256:" + "0" * 64, "size": 5} for kind in ("template", "license")]


def put(name: str, layers: Any = (MODEL, *OTHERS)) -> Path:
    """Write a manifest HOST/NAMESPACE/MODEL/TAG and the weights."""
    manifest = ollama.folder() / "manifests" / name
    manifest.parent.mkdir(parents=True, exist_ok=True)
    manifest.write_text(json.dumps({"schemaVersion": 2, "layers": list(layers)}))
    blob = ollama.folder() / "blobs" / f"sha256-{DIGEST}"
    blob.parent.mkdir(exist_ok=True)
    blob.write_bytes(WEIGHTS)
    return blob


LIBRARY = "registry.ollama.ai/library"


@pytest.mark.parametrize(
    ("manifest", "names"),
    [
        (
            f"{LIBRARY}/qwen2.5-coder/0.5b",
            ["qwen2.5-coder:0.5b", "Qwen2.5-Coder:0.5B", "library/qwen2.5-coder:0.5b"],
        ),
        (f"{LIBRARY}/codellama/latest", ["codellama:latest", "codellama", f"{LIBRARY}/codellama:latest"]),
        ("registry.ollama.ai/me/mine/7b-q4_K_M", ["me/mine:7b-q4_K_M"]),
        ("hf.co/bartowski/x-GGUF/Q4_K_M", ["hf.co/bartowski/x-GGUF:Q4_K_M"]),
    ],
)
def test_a_model_by_its_name(home: Path, manifest: str, names: list[str]) -> None:
    blob = put(manifest)
    for name in names:
        assert store.resolve(f"ollama:{name}") == blob
        assert store.pull(f"ollama:{name}") == blob
    (row,) = store.list_models()
    assert (row.name, row.size, row.sha, row.where) == (f"ollama:{names[0]}", len(WEIGHTS), DIGEST[:12], "ollama")


@pytest.mark.parametrize("name", ["x", "x:y", "../../etc:passwd", "a/b/c/d", "", ":", "a//b"])
def test_an_unknown_name_lists_those_that_there_are(home: Path, name: str) -> None:
    with pytest.raises(ModelNotFound, match="It has: none"):
        store.resolve(f"ollama:{name}")
    put(f"{LIBRARY}/codellama/7b")
    with pytest.raises(ModelNotFound, match="It has: ollama:codellama:7b"):
        store.resolve(f"ollama:{name}")


@pytest.mark.parametrize(
    ("layers", "error", "text"),
    [
        ([*OTHERS], UnsupportedModel, "0 files of weights"),
        ([MODEL, MODEL], UnsupportedModel, "2 files of weights"),
        ([MODEL, {**MODEL, "mediaType": f"{TYPE}adapter"}], UnsupportedModel, "adapter"),
        ([{**MODEL, "digest": "sha256:../../etc/passwd"}], CorruptFile, "names weights"),
        ([{**MODEL, "size": "1"}], CorruptFile, "of size '1'"),
        ([{**MODEL, "size": 99}], CorruptFile, "14 bytes instead of 99; fetch it again with: ollama pull m:1"),
        ([{**MODEL, "digest": "sha256:" + "1" * 64}], CorruptFile, "is missing"),
        ([{}], CorruptFile, "no manifest of Ollama's"),
        (["x"], CorruptFile, "no manifest of Ollama's"),
    ],
)
def test_manifests_that_cannot_be_used(home: Path, layers: Any, error: type[Exception], text: str) -> None:
    put(f"{LIBRARY}/m/1", layers)
    with pytest.raises(error, match=text):
        store.resolve("ollama:m:1")
    assert store.list_models() == []


def test_its_models_are_left_to_it(home: Path) -> None:
    put(f"{LIBRARY}/m/1")
    with pytest.raises(ConfigError, match="ollama rm m:1"):
        store.removal("ollama:m:1")


def test_a_copy_shares_the_file(home: Path) -> None:
    blob = put(f"{LIBRARY}/m/1")
    copy = store.copy("ollama:m:1", "mine:1b")
    assert copy.samefile(blob)
    assert store.resolve("mine:1b") == copy
    blob.unlink()
    assert store.pull("mine:1b") == copy
