"""Reports that a later run goes on with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from befit.errors import ConfigError
from befit.eval.journal import Journal, read_report

SETTINGS = {"judged": "m", "samples": 1}


def test_what_was_added_is_there_after_an_end_of_any_kind(tmp_path: Path) -> None:
    path = tmp_path / "r.json"

    def interrupted() -> None:
        with Journal(path, SETTINGS) as journal:
            journal.add("HumanEval/10#0", {"passed": True})
            journal.add("HumanEval/9#0", {"passed": False})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    again = Journal(path, SETTINGS)
    assert again.items == {"HumanEval/10#0": {"passed": True}, "HumanEval/9#0": {"passed": False}}
    assert list(read_report(path)["items"]) == ["HumanEval/9#0", "HumanEval/10#0"]
    assert [one.name for one in tmp_path.iterdir()] == ["r.json"]


def test_a_report_with_other_settings_is_not_written_over(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    with Journal(path, SETTINGS) as journal:
        journal.add("a", {})
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="samples 1 and not 2"):
        Journal(path, {**SETTINGS, "samples": 2})
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", ["", "[]", '{"settings": {}}', json.dumps({"settings": [], "items": {}})])
def test_a_file_of_something_else_is_not_written_over(tmp_path: Path, content: str) -> None:
    path = tmp_path / "r.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match="not a report"):
        Journal(path, SETTINGS)


def test_a_folder_that_is_not_there_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="folder does not exist"):
        Journal(tmp_path / "no" / "r.json", SETTINGS)


def test_without_a_path_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Journal(None, SETTINGS) as journal:
        journal.add("a", {})
    assert list(tmp_path.iterdir()) == []
