"""Results in files, tables and pictures."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path
from typing import Any

import pytest

from befit.bench.machine import cpu_model, headline, machine
from befit.bench.metrics import Record, summarise
from befit.bench.plot import check, draw
from befit.bench.report import make_result, read_json, serve_notes, table, write_json
from befit.bench.startup import memory_bound, rows, summary
from befit.cli import main
from befit.errors import ConfigError


def serve_run(concurrency: int) -> dict[str, Any]:
    records = [Record(asked=2, sent=0.0, tokens=[0.1, 0.2], last=0.2, end=0.2, prompt_tokens=4, output_tokens=2)]
    return {"concurrency": concurrency, "rate": None, **summarise(records)}


def results() -> dict[str, dict[str, Any]]:
    """One small result of every kind that has a picture."""
    start = {"ready": 1.0, "ttft": 0.1, "first_token": 1.1, "exit": 0.2, "resident": 2e8, "peak": 3e8}
    kernel = {"isa": "avx2", "format": "q4_0", "tokens": 1, "share": 0.5}
    peers = [{"work": "1 client", "number": "output tok/s", "values": {"befit": 2.0, "x": None}, "ratios": {"x": None}}]
    runs: dict[str, list[dict[str, Any]]] = {
        "serve": [serve_run(1), serve_run(8)],
        "latency": [
            {"phase": "prefill", "context": 16, "batch": 1, "tok_s": 9.0},
            {"phase": "decode", "context": 16, "batch": 1, "tok_s": 5.0},
            {"phase": "decode", "context": 16, "batch": 8, "skipped": "too large"},
        ],
        "kernels": [kernel, {**kernel, "tokens": 8}],
        "startup": [start],
        "peers": [],
    }
    made = {kind: make_result(kind, machine(), {"names": ["befit", "x"]}, own) for kind, own in runs.items()}
    made["startup"]["summary"] = summary([start])
    made["peers"]["summary"] = peers
    return made


def test_a_result_goes_to_a_file_and_back(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    result = make_result("serve", machine(), {"a": Path("x"), "none": math.nan}, [{"x": math.inf, "y": (1, 2.5)}])
    write_json(file, result)
    read = read_json(file)
    assert read["runs"] == [{"x": None, "y": [1, 2.5]}]
    assert read["settings"] == {"a": "x", "none": None}


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"benchmark": "other", "runs": []}', '{"benchmark": "serve", "runs": 1}']
)
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "x.json"
    file.write_text(text)
    with pytest.raises(ConfigError, match="is not a result of befit bench"):
        read_json(file)


def test_tables_align_numbers_to_the_right() -> None:
    lines = table([["name", "n"], ["a", 1.0], ["long", 12345.6], ["none", None]]).splitlines()
    assert lines == ["name      n", "a      1.00", "long  12346", "none      –"]


def test_notes_hide_nothing() -> None:
    run = serve_run(1) | {"short": 2, "uncounted": 3, "other_length": 4, "repeated_prompts": 5}
    run |= {"errors": {"timeout": 1}, "error_examples": {"timeout": "too long"}, "late_ms": {"p99": 50.0}}
    text = "\n".join(serve_notes(run))
    for part in ("2 answers are shorter", "3 answers have no usage", "4 prompts have another", "5 requests repeat"):
        assert part in text
    assert "Error: 1 of 1 requests: timeout: too long" in text
    assert "sent late: p99 50 ms" in text


def test_the_machine_is_described_and_a_busy_one_is_warned_of() -> None:
    info = machine()
    assert info["cores"] >= 1
    assert info["memory_bytes"] >= info["available_bytes"] > 0
    assert "Warning" in headline({**info, "load": 3.0})
    assert "Warning" not in headline({**info, "load": 0.1})
    assert cpu_model(Path("/no/such/root"))  # a machine without a name for its CPU has one for its kind


def test_starts_are_summed_up() -> None:
    start = {"ready": 1.0, "ttft": 0.1, "first_token": 1.1, "exit": 0.2, "resident": 2e8, "peak": 3e8}
    numbers = summary([start, {**start, "ready": 3.0}, {**start, "ready": 1.5}])
    assert numbers["ready"] == {"min": 1.0, "median": 1.5, "max": 3.0}
    assert rows(numbers)[1] == ["ready s", 1.0, 1.5, 3.0]
    assert memory_bound(100_000_000) == 290_000_000


@pytest.mark.parametrize("kind", ["serve", "latency", "kernels", "startup", "peers"])
@pytest.mark.parametrize("ending", [".svg", ".png"])
def test_every_kind_is_drawn_alone_and_beside_another(tmp_path: Path, kind: str, ending: str) -> None:
    pytest.importorskip("matplotlib", reason="pip install 'befit[plots]'")
    result, picture = results()[kind], tmp_path / f"picture{ending}"
    draw([("one", result)], picture)
    assert picture.stat().st_size > 1000
    draw([("one", result), ("two", result)], picture)
    assert picture.stat().st_size > 1000


def test_saved_results_are_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pip install 'befit[plots]'")
    files = [tmp_path / "one.json", tmp_path / "two.json"]
    for file in files:
        write_json(file, results()["serve"])
    picture = tmp_path / "both.svg"
    assert main(["bench", "plot", *map(str, files), "-o", str(picture)]) == 0
    assert picture.read_bytes().startswith(b"<?xml")


def test_results_that_do_not_go_together_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    made = results()
    with pytest.raises(ConfigError, match=r"different kinds \(kernels, serve\)"):
        draw([("a", made["serve"]), ("b", made["kernels"])], tmp_path / "x.svg")
    with pytest.raises(ConfigError, match="single number"):
        draw([("a", make_result("throughput", machine(), {}, []))], tmp_path / "x.svg")


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'befit\[plots\]'"):
        check(Path("x.svg"))


def test_json_is_plain(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    write_json(file, results()["serve"])
    assert "NaN" not in json.dumps(json.loads(file.read_text()))
