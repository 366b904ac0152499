"""`befit quantize` as one types it, and `--quant` where a model is loaded."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from befit.cli import main
from befit.quantize import perplexity
from befit.weights.gguf import GGUFFile
from support.files import tiny_file


@pytest.fixture
def dense(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    whole = perplexity.text
    monkeypatch.setattr(perplexity, "text", lambda name: whole(name)[:300])
    return tiny_file(tmp_path / "tiny.gguf", storage="f16", n_layers=1)


def test_it_says_what_it_cost_and_where_it_is(dense: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "small.gguf"
    assert main(["quantize", str(dense), str(target), "--threads", "1"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^weights     [\d.]+ MB to [\d.]+ MB \(3 f32, 7 q4_1, 1 q8_0\) in \d+ s$", out, re.MULTILINE)
    assert re.search(r"^perplexity  [\d.]+ to [\d.]+ \([+-][\d.]+ %\) on built-in code$", out, re.MULTILINE)
    assert out.endswith(f"{target}\n")
    with GGUFFile.open(target) as file:
        assert file.infos["blk.0.ffn_up.weight"].type.name == "Q4_1"


def test_a_folder_without_measuring(dense: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["quantize", str(dense), str(tmp_path / "built"), "--to", "w8", "--no-perplexity"]) == 0
    assert "perplexity" not in capsys.readouterr().out
    assert main(["show", str(tmp_path / "built")]) == 0


def test_what_is_wrong_is_told_before_work_begins(
    dense: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "built"
    assert main(["quantize", str(dense), str(target), "--to", "w8", "--no-perplexity"]) == 0
    for arguments, said in (
        ([str(dense), str(target)], "--force replaces it"),
        ([str(target), str(tmp_path / "x.gguf")], "is a built folder"),
        ([str(dense), str(dense), "--force"], "the source itself"),
        (["no-such-model.gguf", str(tmp_path / "x.gguf")], "there is no file"),
    ):
        capsys.readouterr()
        assert main(["quantize", *arguments]) == 1
        assert said in capsys.readouterr().err


def test_a_quantised_source_is_taken_with_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tiny_file(tmp_path / "q8.gguf", storage="q8_0", n_layers=1)
    assert main(["quantize", str(source), str(tmp_path / "q.gguf"), "--to", "w4", "--no-perplexity"]) == 0
    assert "befit: the source is quantised already (q8_0)" in capsys.readouterr().err


def test_quant_where_a_model_is_loaded(dense: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", None)
    command = ["run", "--quant", "w4", "--max-tokens", "2", "--ctx", "64", str(dense), "hello"]
    assert main(command) == 0
    assert main([*command[:2], "w3", *command[3:]]) == 2
