"""Where models come from: files, folders, names and a hub; only headers are read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from befit.errors import BefitError, CorruptFile, DownloadError, ModelNotFound
from befit.plan import hub, source
from befit.plan.memory import kv_bytes_per_token
from befit.store.repository import parse
from support.files import VOCAB, tiny_file
from support.hf import hf_arrays, hf_config, write_folder
from support.hub import Hub, serve
from support.tiny import tiny_model

MakeFolder = Callable[..., Path]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BEFIT_HOME", str(tmp_path / "store"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "huggingface"))
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HF_ENDPOINT", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serve(tmp_path) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running


def test_a_gguf_file(tmp_path: Path) -> None:
    path = tiny_file(tmp_path / "mine.gguf", storage=lambda name: "q8_0" if "ffn" in name else "f16")
    found = source.find(str(path))
    assert (found.name, found.family, found.why_not) == ("mine", "llama", None)
    assert found.stored.startswith("F16")
    assert found.weight_bytes < path.stat().st_size


def test_a_gguf_file_of_an_architecture_that_befit_does_not_run(tmp_path: Path) -> None:
    path = tiny_file(tmp_path / "mine.gguf")
    other = tmp_path / "other.gguf"
    other.write_bytes(path.read_bytes().replace(b"llama", b"lambd"))
    found, same = source.find(str(other)), source.find(str(path))
    assert found.why_not is not None
    assert "lambd" in found.why_not
    assert (found.parameters, found.weights) == (same.parameters, same.weights)
    assert kv_bytes_per_token(found.program) == kv_bytes_per_token(same.program)


@pytest.mark.parametrize("parts", [1, 3])
def test_a_folder_of_safetensors(hf_folder: MakeFolder, config: dict[str, Any], parts: int) -> None:
    folder = hf_folder("model", config, parts)
    (folder / "consolidated.safetensors").unlink(missing_ok=True)
    found = source.find(str(folder))
    same = tiny_model("llama", head_dim=32, n_heads=2, n_kv_heads=1)
    assert (found.name, found.family) == ("model", "llama")
    assert found.weights["norms, biases"] == 5 * 64 * 4
    assert found.weights["embedding"] == 80 * 64 * 2
    assert "head" not in found.weights
    assert kv_bytes_per_token(found.program) == 2 * 2 * 2 * 16 * 2
    assert found.parameters == sum(size // 2 for kind, size in found.weights.items() if "norm" not in kind) + 5 * 64
    assert same.program.hidden_size == found.program.hidden_size


def test_a_folder_with_a_config_alone_is_planned_at_its_width(tmp_path: Path, config: dict[str, Any]) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**config, "torch_dtype": "float32"}))
    found = source.find(str(tmp_path))
    assert found.weight_bytes == 4 * found.parameters
    assert found.stored == "float32"


def test_a_folder_without_a_config_names_its_files(tmp_path: Path) -> None:
    tiny_file(tmp_path / "mine.gguf")
    with pytest.raises(ModelNotFound, match=r"mine\.gguf"):
        source.find(str(tmp_path))


def test_an_unknown_name_lists_what_can_be_planned() -> None:
    with pytest.raises(ModelNotFound, match=r"list --available.*hf:OWNER"):
        source.find("gpt-9:huge")
    with pytest.raises(ModelNotFound, match=r"qwen2\.5-coder:7b"):
        source.find("qwen2.5-coder:9b")


def test_a_quantisation_in_a_name_makes_its_size() -> None:
    whole, small = source.find("qwen2.5-coder:7b"), source.find("qwen2.5-coder:7b-q4_k_m")
    assert (whole.parameters, whole.program) == (small.parameters, small.program)
    assert small.stored == "Q4_K_M"
    assert 4.6e9 < small.weight_bytes < 4.8e9 < whole.weight_bytes


def test_a_split_model_in_a_repository(server: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "owner" / "model"
    folder.mkdir(parents=True)
    whole = source.find(str(tiny_file(tmp_path / "tiny.gguf")))
    tiny_file(folder / "tiny.gguf", part_tensors=8)
    assert len(list(folder.glob("tiny-0000?-of-0000?.gguf"))) > 1
    found = source.find("hf:owner/model")
    assert (found.weights, found.program) == (whole.weights, whole.program)


# -- the hub ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [1, 3])
def test_a_repository_costs_its_headers_only(
    server: Hub, hf_folder: MakeFolder, config: dict[str, Any], parts: int
) -> None:
    folder = hf_folder("owner/model", {**config, "vocab_size": 20000}, parts)
    local = folder / "consolidated.safetensors"
    local.unlink(missing_ok=True)
    found = source.find("hf:owner/model")
    assert found.weights == source.find(str(folder)).weights
    assert server.sent < 20_000 < sum(file.stat().st_size for file in folder.iterdir())


def test_a_repository_whose_server_knows_no_ranges(server: Hub, hf_folder: MakeFolder, config: dict[str, Any]) -> None:
    folder = hf_folder("owner/model", config)
    server.ranges = False
    assert source.find("owner/model").weights == source.find(str(folder)).weights


@pytest.mark.parametrize("head", [1 << 10, 1 << 20], ids=["grows", "at once"])
def test_a_gguf_file_in_a_repository(server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, head: int) -> None:
    folder = tmp_path / "owner" / "model"
    folder.mkdir(parents=True)
    path = tiny_file(folder / "mine.gguf", n_layers=4)
    monkeypatch.setattr(hub, "_GGUF_HEADS", (head, 4 * head, 64 * head, 1 << 26))
    for ref in ("hf:owner/model", "owner/model:mine.gguf"):
        found, same = source.find(ref), source.find(str(path))
        assert (found.weights, found.parameters, found.program) == (same.weights, same.parameters, same.program)
    assert len(server.requests) > (4 if head == 1 << 10 else 2)
    tiny_file(folder / "other.gguf")
    with pytest.raises(ModelNotFound, match=r":mine\.gguf"):
        source.find("hf:owner/model")


def test_the_token_goes_to_the_hub_and_not_where_it_redirects(
    server: Hub, tmp_path: Path, hf_folder: MakeFolder, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    hf_folder("owner/model", config)
    monkeypatch.setenv("HF_TOKEN", "secret")
    with serve(tmp_path) as other:
        server.redirect_to = other.url
        source.find("hf:owner/model")
        assert {token for _, _, token in server.requests} == {"Bearer secret"}
        assert {token for _, _, token in other.requests} == {None}
        assert all(wanted is not None for _, wanted, _ in other.requests)


@pytest.mark.parametrize(
    ("status", "error", "text"),
    [
        (401, DownloadError, "HF_TOKEN"),
        (404, ModelNotFound, "no such repository"),
        (429, DownloadError, "HTTP 429"),
        (503, DownloadError, "HTTP 503"),
    ],
)
def test_what_the_hub_refuses(server: Hub, status: int, error: type[BefitError], text: str) -> None:
    server.status = status
    with pytest.raises(error, match=text):
        source.find("hf:owner/model")


def test_offline_asks_nobody(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DownloadError, match="HF_HUB_OFFLINE"):
        source.find("hf:owner/model")
    assert server.requests == []


def test_a_hub_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DownloadError, match="check the network"):
        source.find("hf:owner/model")


def test_a_damaged_repository(server: Hub, hf_folder: MakeFolder, config: dict[str, Any]) -> None:
    folder = hf_folder("owner/model", config)
    (folder / "model.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(CorruptFile, match=r"model\.safetensors"):
        source.find("hf:owner/model")
    folder = hf_folder("owner/other", config)
    (folder / "config.json").write_text("[1, 2")
    with pytest.raises(CorruptFile, match=r"config\.json"):
        source.find("hf:owner/other")


def test_a_repository_is_planned_as_it_would_be_loaded(server: Hub, tmp_path: Path) -> None:
    model = tiny_model("qwen2", vocab=VOCAB)
    folder = write_folder(tmp_path / "owner" / "model", hf_config(model), hf_arrays(model))
    found, same = source.find("hf:owner/model"), source.find(str(folder))
    assert (found.name, found.why_not) == ("owner/model", None)
    assert (found.program, found.weights, found.formats) == (same.program, same.weights, same.formats)


def test_a_repository_of_other_weights_is_planned_by_its_configuration(
    server: Hub, tmp_path: Path, config: dict[str, Any]
) -> None:
    folder = tmp_path / "owner" / "model"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({**config, "torch_dtype": "float32"}))
    (folder / "pytorch_model.bin").write_bytes(b"")
    found = source.find("hf:owner/model")
    assert found.weight_bytes == 4 * found.parameters
    assert found.why_not is not None


@pytest.mark.parametrize(
    ("ref", "expected"),
    [
        ("hf:a/b", ("a/b", "main", None)),
        ("a/b", ("a/b", "main", None)),
        ("hf:a/b@v1:x-Q4_K_M.gguf", ("a/b", "v1", "x-Q4_K_M.gguf")),
        ("hf:a/b:sub/x.gguf", ("a/b", "main", "sub/x.gguf")),
        ("hf:a/b:Q4_K_M@v1", ("a/b", "v1", "Q4_K_M")),
        ("a", None),
        ("qwen2.5-coder:7b", None),
        ("./a/b", None),
        ("../b", None),
    ],
)
def test_references(ref: str, expected: tuple[str, str, str | None] | None) -> None:
    found = parse(ref)
    assert expected == (None if found is None else (found.name, found.revision, found.file))
