"""The hub's cache is found where the hub's own tools have it, and read as they do."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from befit import store
from befit.store import hub_cache
from befit.store.repository import Repository

COMMIT = "0123456789abcdef" * 2 + "01234567"


def put(name: str, files: dict[str, str], commit: str = COMMIT, ref: str = "main") -> Path:
    """Write a snapshot by hand."""
    place = hub_cache.folder() / f"models--{name.replace('/', '--')}"
    snapshot = place / "snapshots" / commit
    for path, text in files.items():
        (snapshot / path).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / path).write_text(text)
    if ref:
        (place / "refs" / ref).parent.mkdir(parents=True, exist_ok=True)
        (place / "refs" / ref).write_text(commit)
    return snapshot


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"HF_HOME": "/some/where"},
        {"HF_HUB_CACHE": "~/cache", "HF_HOME": "/some/where"},
        {"HUGGINGFACE_HUB_CACHE": "/old/name"},
        {"XDG_CACHE_HOME": "/xdg"},
        {"HF_HOME": "$HOME/models"},
    ],
)
def test_it_is_where_the_hubs_client_has_it(
    home: Path, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    code = "from huggingface_hub import constants; print(constants.HF_HUB_CACHE)"
    theirs = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert str(hub_cache.folder()) == os.path.abspath(theirs)


def test_a_revision_is_a_branch_a_tag_or_a_commit(home: Path) -> None:
    snapshot = put("a/b", {"x.gguf": "GGUF"}, ref="pr/1")
    for revision in ("pr/1", COMMIT):
        assert store.find(f"hf:a/b@{revision}") == snapshot / "x.gguf"
    assert store.find("hf:a/b") is None
    assert [row.name for row in store.list_models()] == ["hf:a/b@pr/1:x.gguf"]
    assert store.find(store.list_models()[0].name) == snapshot / "x.gguf"


@pytest.mark.parametrize("commit", ["../../../../etc", "", "main", "0" * 39])
def test_a_reference_that_is_no_commit_leads_nowhere(home: Path, commit: str) -> None:
    put("a/b", {"x.gguf": "GGUF"})
    (hub_cache.place(Repository("a/b")) / "refs" / "main").write_text(commit)
    assert store.find("hf:a/b") is None
    assert store.list_models() == []


def test_a_folder_counts_when_all_its_weights_are_there(home: Path) -> None:
    config = '{"architectures": ["Qwen2ForCausalLM"]}'
    index = '{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}'
    files = {"config.json": config, "model.safetensors.index.json": index, "model-1.safetensors": "1"}
    snapshot = put("a/b", files)
    assert store.find("hf:a/b") is None
    (snapshot / "model-2.safetensors").write_text("2")
    assert store.find("hf:a/b") == snapshot
    (snapshot / "model.safetensors.index.json").write_text('{"weight_map": 3}')
    assert store.find("hf:a/b") is None
    (snapshot / "model.safetensors.index.json").unlink()
    assert store.find("hf:a/b") == snapshot
    (snapshot / "model-00001-of-00002.safetensors").write_text("1")
    assert store.find("hf:a/b") is None
    (snapshot / "model-00002-of-00002.safetensors").write_text("2")
    assert store.find("hf:a/b") == snapshot


def test_models_that_write_no_text_are_not_listed(home: Path) -> None:
    put("a/bert", {"config.json": '{"architectures": ["BertModel"]}', "model.safetensors": "1"})
    put("a/odd", {"config.json": "[]", "model.safetensors": "1"})
    put("a/llm", {"config.json": '{"architectures": ["LlamaForCausalLM"]}', "model.safetensors": "12"})
    (row,) = store.list_models()
    assert (row.name, row.where, row.problem) == ("hf:a/llm", "hub", "")
    assert row.size == len('{"architectures": ["LlamaForCausalLM"]}') + 2


def test_a_file_of_the_catalogue_has_its_short_name(home: Path) -> None:
    put("Qwen/Qwen2.5-Coder-7B-Instruct-GGUF", {f"q-{kind}.gguf": "GGUF" for kind in ("q4_k_m", "Q8_0", "odd")})
    assert [row.name for row in store.list_models()] == [
        "hf:Qwen/Qwen2.5-Coder-7B-Instruct-GGUF:q-odd.gguf",
        "qwen2.5-coder:7b",
        "qwen2.5-coder:7b-q8_0",
    ]
    for row in store.list_models():
        assert store.resolve(row.name) == row.path
