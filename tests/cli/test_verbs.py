"""`befit pull`, `list`, `show` and `serve`: what they print and what they refuse."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from befit import store
from befit.cli import main, text
from befit.config import EngineOptions
from befit.errors import DoesNotFit
from befit.store import layout
from befit.store.layout import Manifest


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty store."""
    monkeypatch.setenv("BEFIT_HOME", str(tmp_path))
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
    monkeypatch.setattr(store, "pull", lambda name, progress: Path("/store") / name)
    assert main(["pull", "smollm2:135m"]) == 0
    assert capsys.readouterr().out == "/store/smollm2:135m\n"


def test_pull_of_an_unknown_name(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pull", "smolm2:135m"]) == 1
    assert "Did you mean smollm2:135m?" in capsys.readouterr().err


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
    assert lines[0] == ["NAME", "SIZE", "MODIFIED", "SHA256"]
    assert [line[:3] for line in lines[1:]] == [["cut:1b", "4.0", "kB"], ["mine:1b", "4.0", "kB"]]
    assert "4 bytes instead of 4,000" in shown.err


def test_list_as_json(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = put("mine:1b")
    assert main(["list", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["name"], row["size"], row["path"], row["problem"]) == ("mine:1b", 4000, str(path), None)


def test_show_does_not_fetch(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "smollm2"]) == 1
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
    others = ["--backend=reference", "--no-prefix-cache"]
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
