"""What is wrong follows from the facts alone, and everything that is wrong can be mended."""

from __future__ import annotations

from typing import Any

import pytest

from befit.doctor.advice import problems

CARD = {"name": "RTX 4060", "memory": 8 << 30, "free": 7 << 30, "bandwidth": 272e9}


def test_nothing_is_wrong_with_a_healthy_machine(healthy: dict[str, Any]) -> None:
    assert problems(healthy) == []


@pytest.mark.parametrize(
    ("where", "change", "level", "says", "mend"),
    [
        ("environment", {"BEFIT_ISA": "amx"}, "broken", "runs avx2, generic", "Unset BEFIT_ISA"),
        ("environment", {"BEFIT_ISA": "generic"}, "warning", "avx2 is faster", "Unset BEFIT_ISA"),
        ("environment", {"HF_HUB_OFFLINE": "1"}, "note", "HF_HUB_OFFLINE is set", "Unset it"),
        ("cpu", {"isas": ["generic"], "isa": "generic", "features": []}, "warning", "no AVX2", "-cpu host"),
        ("cpu", {"limit": 1.5}, "note", "grants 1.5 CPUs of time; 4 cores", "--cpus"),
        ("cpu", {"load": 3.0}, "note", "load average is 3.0", "quiet"),
        ("memory", {"available": 10**8}, "broken", "100 MB of memory are free", "End other programs"),
        ("memory", {"limit": 2 * 10**9}, "note", "limits memory to 2.0 GB; the machine has 16.0 GB", "--memory"),
        ("memory", {"huge_pages": "never"}, "warning", "huge pages", "echo madvise"),
        ("store", {"writable": False}, "broken", "/models cannot be written", "BEFIT_HOME"),
        ("store", {"free": 10**9}, "warning", "1.0 GB of disk are free", "Remove models"),
        ("port", {"number": 8000, "free": False}, "warning", "Port 8000 is in use", "--port 8001"),
    ],
)
def test_what_is_wrong_is_said_with_its_remedy(
    healthy: dict[str, Any], where: str, change: dict[str, Any], level: str, says: str, mend: str
) -> None:
    [found] = problems({**healthy, where: {**healthy[where], **change}})
    assert found.level == level
    assert says in found.what
    assert mend in found.mend


def test_cards_are_not_used(healthy: dict[str, Any]) -> None:
    [found] = problems({**healthy, "cards": [CARD]})
    assert (found.level, found.what) == (
        "note",
        "RTX 4060 is not used: befit computes on the CPU, and torch is not installed.",
    )
    [found] = problems({**healthy, "card_without_driver": True})
    assert "no driver" in found.what


def test_a_damaged_model_is_fetched_anew(healthy: dict[str, Any]) -> None:
    models = [{"name": "a:1b", "size": 1, "problem": "it is too short"}, {"name": "b:1b", "size": 1, "problem": None}]
    [found] = problems({**healthy, "store": {**healthy["store"], "models": models}})
    assert (found.level, found.mend) == ("broken", "befit pull a:1b")


def test_a_compiler_is_for_sources_only(healthy: dict[str, Any]) -> None:
    [found] = problems({**healthy, "compiler": None})
    assert found.level == "note"


@pytest.mark.parametrize(("measured", "count"), [(300, 0), (390, 0), (410, 1)])
def test_a_wrong_prediction_is_told(healthy: dict[str, Any], measured: int, count: int) -> None:
    peak = {"model": "a", "predicted": 300 * 10**6, "measured": measured * 10**6}
    assert len(problems({**healthy, "peak": peak})) == count


def test_what_is_broken_comes_first(healthy: dict[str, Any]) -> None:
    bad = {**healthy, "compiler": None, "port": {"number": 1, "free": False}}
    bad["store"] = {**bad["store"], "writable": False}
    assert [problem.level for problem in problems(bad)] == ["broken", "warning", "note"]
