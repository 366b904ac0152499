"""What a user may write for a model, and what is listed."""

import os
from pathlib import Path

import pytest

from befit import store
from befit.errors import ConfigError, CorruptFile, ModelNotFound
from befit.store import layout
from befit.store.layout import Manifest

from .conftest import Shelf


def put(name: str, content: bytes = b"GGUF", size: int | None = None) -> Path:
    """Store a model by hand."""
    place = layout.folder(name)
    place.mkdir(parents=True)
    (place / "m.gguf").write_bytes(content)
    facts = {"sha256": "ab" * 32, "source": "test", "pulled_at": "2025-01-01T00:00:00+00:00"}
    layout.write_manifest(place, Manifest(name=name, file="m.gguf", size=size or len(content), **facts))
    return place / "m.gguf"


def test_home_is_where_befit_home_says(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert store.home() == home
    monkeypatch.setenv("BEFIT_HOME", "")
    assert store.home() == Path.home() / ".cache" / "befit"


def test_a_file_is_taken_as_it_is(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "mine.gguf"
    file.touch()
    assert store.resolve(str(file)) == file
    monkeypatch.chdir(tmp_path)
    assert store.resolve("mine.gguf") == Path("mine.gguf")


@pytest.mark.parametrize("ref", ["no/such/model.gguf", "missing.gguf", "./x", "a" * 5000 + ".gguf"])
def test_a_missing_file_is_named(home: Path, ref: str) -> None:
    with pytest.raises(ModelNotFound, match="there is no file"):
        store.resolve(ref)


def test_a_folder_is_no_model(home: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="is a folder"):
        store.resolve(str(tmp_path))


def test_a_stored_model_needs_no_catalogue(home: Path) -> None:
    path = put("mine:1b")
    assert store.resolve("mine:1b") == path
    assert store.resolve("mine") == path
    assert store.is_known("mine")


def test_an_ambiguous_family_is_refused(home: Path) -> None:
    put("mine:1b")
    put("mine:3b")
    with pytest.raises(ConfigError, match="mine:1b or mine:3b"):
        store.resolve("mine")


def test_without_pull_nothing_is_fetched(shelf: Shelf) -> None:
    with pytest.raises(ModelNotFound, match="befit pull tiny:1m"):
        store.resolve("tiny:1m", pull=False)


def test_a_name_that_nobody_knows(home: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"no model is called 'nope:1b'.*list --available"):
        store.resolve("nope:1b")


def test_the_list_tells_damage(home: Path) -> None:
    whole = put("whole:1b", b"GGUF....")
    put("cut:1b", b"GGUF", size=100)
    broken = put("odd:1b")
    (broken.parent / "manifest.json").write_text("{}")
    rows = {row.name: row for row in store.list_models()}
    assert list(rows) == ["cut:1b", "odd:1b", "whole:1b"]
    assert rows["whole:1b"].path == whole
    assert rows["whole:1b"].size == 8
    assert rows["whole:1b"].sha == "ab" * 6
    assert rows["whole:1b"].problem == ""
    assert "4 bytes instead of 100" in rows["cut:1b"].problem
    assert "no manifest" in rows["odd:1b"].problem
    with pytest.raises(CorruptFile, match="instead of 100"):
        store.resolve("cut:1b")


def test_a_manifest_cannot_point_out_of_its_folder(home: Path) -> None:
    place = put("evil:1b").parent
    text = (place / "manifest.json").read_text()
    (place / "manifest.json").write_text(text.replace("m.gguf", "../../../etc/passwd"))
    with pytest.raises(CorruptFile, match="names file"):
        store.resolve("evil:1b")


def test_removing_the_folder_removes_the_model(home: Path) -> None:
    path = put("mine:1b")
    path.unlink()
    os.unlink(path.parent / "manifest.json")
    os.rmdir(path.parent)
    assert store.list_models() == []
