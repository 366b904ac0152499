"""A report that a run fills item by item, and that a run which was ended goes on with."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, Self

from befit import disk
from befit.errors import ConfigError

EVERY_SECONDS = 2.0


class Journal:
    """Items by key in a JSON file beside the settings that they were made with. Without a path it is only kept here.

    A file with the same settings is gone on with. Raises ConfigError for one with others, or of something else: what
    was measured is not written over.
    """

    def __init__(self, path: Path | None, settings: dict[str, Any]) -> None:
        self.path = path
        self.settings = settings
        self.items: dict[str, dict[str, Any]] = {}
        self.summary: dict[str, Any] = {}
        self._written = 0.0
        if path is not None and path.exists():
            self.items = _read(path, settings)
        elif path is not None and not path.absolute().parent.is_dir():
            raise ConfigError(f"{path} cannot be written: its folder does not exist.")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.save()

    def add(self, key: str, item: dict[str, Any]) -> None:
        """Keep an item; the file has it within two seconds if more items come, else at the end of the `with`."""
        self.items[key] = item
        if time.monotonic() - self._written > EVERY_SECONDS:
            self.save()

    def save(self) -> None:
        """Write the file, whole or not at all. Raises DoesNotFit when the disk is full."""
        self._written = time.monotonic()
        if self.path is None:
            return
        items = dict(sorted(self.items.items(), key=lambda item: _order(item[0])))
        report = {"settings": self.settings, "summary": self.summary, "items": items}
        disk.write_whole(self.path, json.dumps(report, indent=1) + "\n")


def read_report(path: Path) -> dict[str, Any]:
    """A report of befit eval. Raises ConfigError for anything else."""
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(report["settings"], dict) or not isinstance(report["items"], dict):
            raise TypeError("its settings or items are none")
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ConfigError(f"{path} is not a report of befit eval: {error}.") from None
    assert isinstance(report, dict)
    return report


def _read(path: Path, settings: dict[str, Any]) -> dict[str, dict[str, Any]]:
    report = read_report(path)
    there = report["settings"]
    other = sorted(name for name in {*there, *settings} if there.get(name) != settings.get(name))
    if other:
        said = ", ".join(f"{name} {there.get(name)!r} and not {settings.get(name)!r}" for name in other[:3])
        raise ConfigError(f"{path} was made with {said}; name another file, or remove it.")
    items: dict[str, dict[str, Any]] = report["items"]
    return items


def _order(key: str) -> list[tuple[int, str]]:
    """HumanEval/9 before HumanEval/10."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in key.replace("#", "/").split("/")]
