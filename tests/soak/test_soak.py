"""The short soak of the suite: seconds, with random weights. `python tests/soak/run.py` is the long one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from support.files import tiny_file

pytestmark = pytest.mark.slow


@pytest.fixture
def folder_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(Path(__file__).parent), *sys.path])


@pytest.mark.usefixtures("folder_on_path")
def test_under_load_every_answer_is_the_one_that_its_request_gets_alone(tmp_path: Path) -> None:
    from run import soak

    model = tiny_file(tmp_path / "tiny.gguf", context=1024)
    options = ("--ctx", "384", "--kv-tokens", "768", "--threads", "1")
    result = soak(str(model), 4, clients=24, asks=24, seed=1, longest=30, options=options)
    assert result.wrong == []
    assert result.errors == []
    assert result.left_over == ""
    assert sum(result.done.values()) > 24
    assert result.left_early > 0
    assert result.counters["preemptions_total"] > 0
