"""`befit plan`: what it prints, its JSON, and its exit status."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from befit.cli import main
from befit.plan import machine, nvml
from support.files import tiny_file


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty store and a machine without cards."""
    monkeypatch.setenv("BEFIT_HOME", str(tmp_path / "store"))
    monkeypatch.setattr(nvml, "detect", list)


def test_what_does_not_fit(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "deepseek-coder:6.7b", "--gpu", "RTX 4060"]) == 1
    shown = capsys.readouterr().out
    assert "13.5 GB" in shown
    assert "does not fit" in shown
    assert "What would fit, what costs least first:" in shown
    assert "4-bit (Q4_K_M)" in shown


def test_what_fits(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "deepseek-coder:6.7b", "--gpu", "RTX 4060", "--bits", "4"]) == 0
    shown = capsys.readouterr().out
    assert "fits" in shown
    assert "tokens/s at most" in shown
    assert "What would fit" not in shown


def test_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tiny_file(tmp_path / "mine.gguf")
    assert main(["plan", str(path), "--memory", "2GiB", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    [plan] = answer["plans"]
    parts = plan["bytes"]
    assert answer["fits"] is plan["fits"] is plan["model"]["runs"] is True
    purposes = ("weights", "kv_cache", "activations", "overhead", "reserve")
    assert parts["total"] == sum(parts[purpose] for purpose in purposes)
    assert parts["weights"] == sum(plan["model"]["memory_bytes"].values())
    assert sum(plan["model"]["weight_bytes"].values()) < parts["weights"] < 2 * path.stat().st_size
    assert plan["machine"]["available"] == 2 << 30
    assert plan["wish"]["ctx"] == 256
    assert main(["plan", str(path), "--memory", "1MB", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["fits"] is False


def test_cards_in_this_machine_are_planned_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    card = nvml.DetectedCard("NVIDIA GeForce RTX 4090", 24 << 30, 23 << 30, 1008e9)
    monkeypatch.setattr(nvml, "detect", lambda: [card])
    tight = machine.limited(machine.this_cpu(measure=False), 1 << 30)
    monkeypatch.setattr(machine, "this_cpu", lambda: tight)
    assert main(["plan", "qwen2.5-coder:7b"]) == 0
    shown = capsys.readouterr().out
    assert shown.index("this machine's CPU") < shown.index("RTX 4090")
    assert "befit computes on the CPU" in shown


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["smollm2:135m", "--ctx", "9000"], "at most 8192"),
        (["smollm2:135m", "--memory", "lots"], "8GiB"),
        (["smollm2:135m", "--gpu", "toaster"], "Known cards"),
        (["no-such-model"], "list --available"),
    ],
)
def test_wrong_wishes(arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *arguments]) == 1
    assert text in capsys.readouterr().err
