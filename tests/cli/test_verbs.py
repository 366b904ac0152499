"""`befit pull`, `list`, `show` and `serve`: what they print and what they refuse."""

from __future__ import annotations

import io
import json
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from befit import store
from befit.cli import main, text
from befit.config import EngineOptions
from befit.errors import DoesNotFit
from befit.plan import admit
from befit.plan.machine import this_cpu
from befit.store import layout
from befit.store.layout import Manifest
from support.files import tiny_file
from support.hub import serve


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty store."""
    monkeypatch.setenv("BEFIT_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "huggingface"))
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "ollama"))
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HUB_OFFLINE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def put(name: str) -> Path:
    """Store a model by hand."""
    place = layout.folder(name)
    place.mkdir(parents=True)
    (place / "m.gguf").write_bytes(b"GGUF" * 1000)
    facts = {"sha256": "ab" * 32, "source": "test", "pulled_at": "2025-01-01T00:00:00+00:00"}
    layout.write_manifest(place, Manifest(name=name, file="m.gguf", size=4000, **facts))
    return place / "m.gguf"


def test_pull_prints_where_the_file_is(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[object] = []

    def pull(name: str, progress: bool, admit: object) -> Path:
        asked.append(admit)
        return Path("/store") / name

    monkeypatch.setattr(store, "pull", pull)
    assert main(["pull", "smollm2:135m"]) == 0
    assert capsys.readouterr().out == "/store/smollm2:135m\n"
    assert main(["pull", "--force", "smollm2:135m"]) == 0
    assert asked == [admit.check, None]


def test_a_model_that_does_not_fit_is_not_fetched(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    repository = home / "hub" / "tester" / "tiny"
    repository.mkdir(parents=True)
    file = tiny_file(repository / "tiny-Q4_K_M.gguf")
    computer = replace(this_cpu(), available=1_000_000)
    monkeypatch.setattr("befit.plan.admit.this_cpu", lambda **_: computer)
    with serve(home / "hub") as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        assert main(["pull", "hf:tester/tiny"]) == 1
        said = capsys.readouterr().err
        assert "tester/tiny was not fetched" in said
        assert "befit pull --force" in said
        assert main(["serve", "hf:tester/tiny", "--port=0"]) == 1
        assert "tester/tiny was not fetched" in capsys.readouterr().err
        assert store.list_models() == []
        monkeypatch.setattr("befit.plan.admit.this_cpu", lambda **_: replace(computer, available=1 << 32))
        assert main(["serve", "hf:tester/tiny", "--port=0", "--memory=1MB"]) == 1
        assert "0.0 GB are there" in capsys.readouterr().err
        assert main(["pull", "--force", "hf:tester/tiny"]) == 0
        assert Path(capsys.readouterr().out.strip()).read_bytes() == file.read_bytes()
        assert main(["plan", "hf:tester/tiny", "--memory", "1GiB"]) == 0
        monkeypatch.setattr("befit.plan.admit.this_cpu", lambda **_: replace(computer, available=1 << 32))
        (repository / "tiny-Q4_K_M.gguf").write_bytes(file.read_bytes().replace(b"llama", b"lambd"))
        store.removal("hf:tester/tiny").run()
        assert main(["pull", "hf:tester/tiny"]) == 1
        assert "lambd" in capsys.readouterr().err


def test_pull_of_an_unknown_name(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pull", "smolm2:135m"]) == 1
    assert "Did you mean smollm2:135m or" in capsys.readouterr().err


def test_list(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "befit pull smollm2:135m" in shown.err
    put("mine:1b")
    put("cut:1b").write_bytes(b"GGUF")
    assert main(["list"]) == 0
    shown = capsys.readouterr()
    lines = [line.split() for line in shown.out.splitlines()]
    assert lines[0] == ["NAME", "SIZE", "MODIFIED", "SHA256", "WHERE"]
    assert [line[:3] for line in lines[1:]] == [["cut:1b", "4.0", "kB"], ["mine:1b", "4.0", "kB"]]
    assert "4 bytes instead of 4,000" in shown.err


def test_list_as_json(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = put("mine:1b")
    assert main(["list", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["name"], row["size"], row["path"], row["problem"]) == ("mine:1b", 4000, str(path), None)


def test_the_models_that_have_names(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--available"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["NAME", "PARAMETERS", "CONTEXT"]
    assert any(line.startswith("qwen2.5-coder:7b ") and "q4_k_m 4.7 GB" in line for line in lines)
    assert main(["search", "qwen", "research", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["name"], row["license"], row["fim"]) == ("qwen2.5-coder:3b", "Qwen-Research", True)
    assert main(["search", "abacus"]) == 1
    assert "no model that befit knows has abacus" in capsys.readouterr().err


def test_copying_removing_and_what_is_taken(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put("mine:1b")
    assert main(["cp", "mine:1b", "yours:1b"]) == 0
    assert capsys.readouterr().out == f"{home}/models/yours/1b/m.gguf\n"
    assert main(["du"]) == 0
    assert capsys.readouterr().out.splitlines()[0].split() == ["NAME", "ON", "DISK", "WHERE"]
    assert main(["du", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {row["name"] for row in found["models"]} == {"mine:1b", "yours:1b"}
    assert found["total"] == sum(row["size"] for row in found["models"]) > 0
    assert main(["rm", "mine:1b", "theirs:1b"]) == 1
    assert "theirs:1b is not stored here" in capsys.readouterr().err
    assert main(["rm", "mine:1b", "yours:1b", "--unfinished"]) == 0
    assert capsys.readouterr().out.startswith("removed mine:1b: ")
    assert store.list_models() == []
    assert main(["rm"]) == 2


def test_the_hubs_cache_is_touched_only_when_told(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    snapshot = home / "huggingface" / "hub" / "models--a--b" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "m.gguf").write_bytes(b"GGUF")
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert main(["rm", "hf:a/b"]) == 2
    assert "add --yes" in capsys.readouterr().err
    assert main(["list"]) == 0
    assert "hf:a/b:m.gguf" in capsys.readouterr().out
    assert main(["rm", "hf:a/b", "--yes"]) == 0
    assert store.list_models() == []


def test_show_does_not_fetch(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "smollm2:135m"]) == 1
    assert "fetch it with: befit pull smollm2:135m" in capsys.readouterr().err


@pytest.mark.model
def test_show(smollm2_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(smollm2_path)]) == 0
    facts = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    assert {name: facts[name].strip() for name in ("architecture", "layers", "size")} == {
        "architecture": "llama",
        "layers": "30",
        "size": "98.4 MB (98,362,432 bytes)",
    }
    assert "Q4_1" in facts["quantisation"]
    assert facts["context"].strip().startswith("8,192 tokens")
    assert main(["show", "--json", str(smollm2_path)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["parameters"] == 134_515_008
    assert sum(found["quantisation"].values()) == pytest.approx(1)


def test_a_port_in_use_is_told_before_loading(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert main(["serve", "--port", str(port)]) == 1
    assert f"127.0.0.1:{port}" in capsys.readouterr().err
    assert store.list_models() == []


def test_serve_hands_its_options_on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[tuple[str, EngineOptions]] = []

    def load_model(ref: str, options: EngineOptions, **_: Any) -> None:
        asked.append((ref, options))
        raise DoesNotFit("It does not.")

    monkeypatch.setattr("befit.engine.load.load_model", load_model)
    numbers = ["--ctx=100", "--max-seqs=3", "--token-budget=64", "--kv-tokens=200", "--threads=2", "--max-queue=5"]
    guesses = ["--speculate=draft", "--draft=small"]
    others = ["--backend=reference", "--no-prefix-cache", "--kv-dtype=int8"]
    assert main(["serve", "x:y", "--port=0", *others, *numbers, *guesses]) == 1
    assert main(["serve", "--port", "0"]) == 1
    assert asked == [
        (
            "x:y",
            EngineOptions(
                ctx=100,
                max_seqs=3,
                token_budget=64,
                kv_tokens=200,
                threads=2,
                kv_dtype="int8",
                backend="reference",
                prefix_cache=False,
                max_queue=5,
                speculation="draft",
                draft="small",
            ),
        ),
        (store.DEFAULT_MODEL, EngineOptions()),
    ]
    assert capsys.readouterr().err == "befit: error: It does not.\n" * 2


@pytest.mark.parametrize(
    ("count", "shown"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (999_949, "999.9 kB"), (999_950, "1.0 MB"), (98_362_432, "98.4 MB")],
)
def test_sizes(count: int, shown: str) -> None:
    assert text.size(count) == shown
