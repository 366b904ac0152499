"""`befit build`, and the other verbs on what it wrote."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from befit.cli import main
from befit.cli.run import split_words
from befit.store import list_models
from support.files import tiny_file


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BEFIT_HOME", str(tmp_path / "home"))
    return tiny_file(tmp_path / "tiny.gguf", storage="q4_0")


def test_build_prints_where_the_folder_is(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "deep" / "built"
    assert main(["build", str(source), "-o", str(out)]) == 0
    shown = capsys.readouterr()
    assert shown.out == f"{out}\n"
    assert "Building tiny" in shown.err
    assert main(["build", str(source), "-o", str(out)]) == 1
    assert "--force replaces it" in capsys.readouterr().err
    assert main(["build", str(source), "-o", str(out), "--force", "--threads", "1"]) == 0
    assert main(["build", str(out), "-o", str(tmp_path / "again")]) == 1
    assert "is a built folder already" in capsys.readouterr().err
    assert main(["build", str(source)]) == 2


def test_show_a_built_folder(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "built"
    main(["build", str(source), "-o", str(out)])
    capsys.readouterr()
    assert main(["show", str(out), "--verify"]) == 0
    shown = capsys.readouterr()
    facts = dict(line.split("  ", 1) for line in shown.out.splitlines())
    assert facts["folder"].strip() == str(out)
    assert facts["built from"].strip() == str(source)
    assert "every file has its size and SHA-256" in facts["verified"]
    assert re.fullmatch(r" *[0-9.]+ k?B a token as f16, [0-9.]+ k?B a token as int8", facts["KV cache"])
    assert "Reading built" in shown.err
    assert main(["show", "--json", str(out)]) == 0
    built = json.loads(capsys.readouterr().out)
    main(["show", "--json", str(source)])
    plain = json.loads(capsys.readouterr().out)
    assert plain["build"] is None
    assert built["build"]["served_name"] == "tiny"
    for name in ("parameters", "layers", "context", "kv_bytes_per_token", "tokenizer", "chat_template", "vocab_size"):
        assert built[name] == plain[name]


def test_show_names_damage(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "built"
    main(["build", str(source), "-o", str(out)])
    with open(out / "weights.bin", "rb+") as file:
        file.write(b"\xff")
    assert main(["show", str(out)]) == 0
    assert main(["show", str(out), "--verify"]) == 1
    assert "weights.bin is damaged" in capsys.readouterr().err
    os.truncate(out / "weights.bin", 5)
    assert main(["show", str(out)]) == 1
    assert "has 5 bytes instead of" in capsys.readouterr().err


def test_verify_is_for_folders(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(source), "--verify"]) == 2
    assert "befit pull" in capsys.readouterr().err


def test_run_knows_a_built_folder(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    main(["build", str(source), "-o", "built"])
    assert split_words(("built",), None) == ("built", None)
    (tmp_path / "other").mkdir()
    assert split_words(("other",), None)[1] == "other"


def test_a_folder_inside_the_store_is_no_stored_model(source: Path, tmp_path: Path) -> None:
    assert main(["build", str(source), "-o", str(tmp_path / "home" / "models" / "tiny" / "built")]) == 0
    assert list_models() == []


def test_a_folder_that_befit_did_not_build(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--port", "0", f"{tmp_path}/"]) == 1
    assert "is a folder without a config.json and befit did not build it" in capsys.readouterr().err
