"""`befit doctor`: one page, its JSON, and its exit status."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from befit.bench import memory
from befit.cli import main
from befit.plan import machine, nvml
from befit.plan.machine import Machine


@pytest.fixture(autouse=True)
def this(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """An empty store, no card, and a machine that need not be measured."""
    monkeypatch.setenv("BEFIT_HOME", str(tmp_path / "store"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(nvml, "detect", list)
    monkeypatch.setattr(nvml, "driver_version", lambda: None)
    here = machine.limited(machine.this_cpu(measure=False), 8 << 30)
    measured = Machine(**{name: getattr(here, name) for name in Machine.__slots__} | {"bandwidth": 20e9, "rate": 1e11})
    monkeypatch.setattr(machine, "this_cpu", lambda: measured)
    return measured


def test_one_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    assert len(shown.splitlines()) < 50
    for part in ("versions", "kernels", "20.0 GB/s read", str(tmp_path / "store"), "What would run well here"):
        assert part in shown
    assert "befit serve smollm2:135m" in shown or "befit serve qwen2.5-coder" in shown
    assert "HF_HUB_OFFLINE is set" in shown


def test_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) >= {"versions", "cpu", "memory", "cards", "store", "port", "peak", "recommended", "problems"}
    assert found["peak"] is None
    assert 0 < len(found["recommended"]) <= 3
    assert "note" in {problem["level"] for problem in found["problems"]}


def test_something_broken_is_an_exit_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "store").write_text("a file in the way")
    assert main(["doctor"]) == 1
    assert "broken:" in capsys.readouterr().out


def test_measuring_compares_the_peak(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fake(name: str, wishes: dict[str, Any]) -> dict[str, Any]:
        return {"predicted": {"together": 300 * 10**6}, "measured": 290 * 10**6}

    monkeypatch.setattr(memory, "measure", fake)
    assert main(["doctor", "--measure", "--model", "mine.gguf"]) == 0
    assert "300.0 MB predicted, 290.0 MB measured (+3.4%), a small server of mine.gguf" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "text"), [(["--measure"], "name one with --model"), (["--model", "x"], "give both")]
)
def test_wrong_wishes(arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", *arguments]) == 1
    assert text in capsys.readouterr().err
