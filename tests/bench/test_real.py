"""The real server with SmolLM2: a short run of everything that starts one."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from befit.cli import main

pytestmark = [pytest.mark.model, pytest.mark.slow]


def test_befit_beside_itself(smollm2_path: Path, tmp_path: Path) -> None:
    file = tmp_path / "peers.json"
    itself = f"itself={sys.executable} -m befit.cli serve {{model}} --port {{port}} --ctx 1024"
    command = ["bench", "peers", "--model", str(smollm2_path), "--befit", "--ctx 1024", "--peer", itself]
    command += ["--clients", "1,2", "--repeat", "1", "--output-tokens", "4", "--prefill-tokens", "150"]
    assert main([*command, "--no-rewrite", "--json", str(file)]) == 0
    result = json.loads(file.read_text())
    assert {run["server"] for run in result["runs"]} == {"befit", "itself"}
    for run in result["runs"]:
        assert run["errors"] == {}
        assert run["short"] == run["other_length"] == run["uncounted"] == 0
        assert run["prompt_tokens"]["mean"] == (150 if run["work"].startswith("prefill") else 113)
        assert run["cache_hit_rate"] < 0.01
        assert run["from_server"]["prefix_hit_rate"] == pytest.approx(run["cache_hit_rate"])


def test_a_start(smollm2_path: Path, tmp_path: Path) -> None:
    file = tmp_path / "start.json"
    assert main(["bench", "startup", str(smollm2_path), "--repeat", "1", "--ctx", "1024", "--json", str(file)]) == 0
    result = json.loads(file.read_text())
    assert result["settings"]["serve_options"] == ["--ctx", "1024"]
    [run] = result["runs"]
    assert 0 < run["ready"] < run["first_token"]
    assert 0 < run["resident"] <= run["peak"]


def test_steps_and_a_batch(smollm2_path: Path, tmp_path: Path) -> None:
    file = tmp_path / "offline.json"
    shapes = ["--contexts", "64", "--batches", "1,2", "--steps", "2", "--json", str(file)]
    assert main(["bench", "latency", str(smollm2_path), *shapes]) == 0
    assert [run["phase"] for run in json.loads(file.read_text())["runs"]] == ["prefill", "decode", "decode"]
    sizes = ["--requests", "3", "--prompt-tokens", "20", "--output-tokens", "5", "--ctx", "256", "--json", str(file)]
    assert main(["bench", "throughput", str(smollm2_path), *sizes]) == 0
    [run] = json.loads(file.read_text())["runs"]
    assert (run["failed"], run["output_tokens"]) == (0, 15)
