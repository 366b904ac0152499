"""Copying, removing, and what models take of the disk."""

import os
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from befit import store
from befit.errors import ConfigError, CorruptFile, DoesNotFit, ModelNotFound
from befit.store import hub_cache, layout, manage
from befit.store.lock import alone
from befit.store.repository import Repository
from support.hub import Hub

from .conftest import CONTENT, REPOSITORY
from .test_lookup import put

REF = f"hf:{REPOSITORY}"


# -- cp ----------------------------------------------------------------------------------------------------------------


def test_a_file_of_ones_own_is_copied(home: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.gguf"
    file.write_bytes(CONTENT)
    path = store.copy(str(file), "mine:1b")
    assert path == home / "models" / "mine" / "1b" / "mine.gguf"
    file.write_bytes(b"something else")
    assert path.read_bytes() == CONTENT
    (row,) = store.list_models()
    assert (row.name, row.size, row.sha, row.problem) == ("mine:1b", len(CONTENT), "", "")


def test_a_file_of_a_store_is_shared(hub: Hub) -> None:
    path = store.pull("tiny:1m", progress=False)
    copy = store.copy("tiny:1m", "mine:1b")
    again = store.copy("mine:1b", "mine:2b")
    assert copy.samefile(path)
    assert again.samefile(path)
    assert {row.sha for row in store.list_models()} == {path.resolve().name[:12]}
    copy.write_bytes(b"X" * len(CONTENT))
    with pytest.raises(CorruptFile, match="befit rm mine:1b"):
        store.pull("mine:1b")


def test_a_disk_that_cannot_link_gets_a_copy(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put("mine:1b")

    def cannot(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(manage.os, "link", cannot)
    copy = store.copy("mine:1b", "yours:1b")
    assert copy.read_bytes() == path.read_bytes()
    assert not copy.samefile(path)
    monkeypatch.setattr(manage.shutil, "disk_usage", lambda _: SimpleNamespace(free=1))
    with pytest.raises(DoesNotFit, match="BEFIT_HOME"):
        store.copy("mine:1b", "theirs:1b")
    assert [row.name for row in store.list_models()] == ["mine:1b", "yours:1b"]


def test_parts_and_folders_are_copied_whole(home: Path, tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / f"m-0000{number}-of-00002.gguf").write_bytes(b"GGUF" * number)
    path = store.copy(str(tmp_path / "m-00001-of-00002.gguf"), "parts:1b")
    assert store.resolve("parts:1b") == path
    assert path.name == "m-00001-of-00002.gguf"
    (path.parent / "m-00002-of-00002.gguf").unlink()
    with pytest.raises(CorruptFile, match=r"m-00002-of-00002\.gguf is missing"):
        store.resolve("parts:1b")
    with pytest.raises(ModelNotFound, match="one of 2 parts, of which 1 are there"):
        store.copy(str(path), "other:1b")
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("config.json", "model.safetensors", "notes.txt"):
        (folder / name).write_text(name)
    stored = store.copy(str(folder), "folder:1b")
    assert stored == home / "models" / "folder" / "1b"
    assert sorted(each.name for each in stored.iterdir()) == ["config.json", "manifest.json", "model.safetensors"]
    assert store.resolve("folder:1b") == stored
    assert {row.name: row.size for row in store.list_models()}["folder:1b"] == len("config.json" + "model.safetensors")


def test_what_cannot_be_copied(home: Path, hub: Hub) -> None:
    put("mine:1b")
    with pytest.raises(ConfigError, match="stored already; remove it first with: befit rm mine:1b"):
        store.copy("mine:1b", "mine:1b")
    with pytest.raises(ConfigError, match="has no tag"):
        store.copy("mine:1b", "yours")
    with pytest.raises(ModelNotFound, match="no model name"):
        store.copy("mine:1b", "../x:y")
    with pytest.raises(ModelNotFound, match="befit pull tiny:1m"):
        store.copy("tiny:1m", "yours:1b")
    with pytest.raises(ModelNotFound, match="there is no file"):
        store.copy("./none.gguf", "yours:1b")


# -- rm ----------------------------------------------------------------------------------------------------------------


def test_a_stored_model_is_removed(home: Path) -> None:
    path = put("mine:1b")
    put("mine:2b")
    removal = store.removal("mine:1b")
    assert (removal.shared, removal.paths) == (False, (path.parent,))
    assert removal.run() >= len(b"GGUF")
    assert [row.name for row in store.list_models()] == ["mine:2b"]
    store.removal("mine").run()
    assert list((home / "models").iterdir()) == []
    assert store.disk_usage() == []


def test_a_damaged_model_is_removed(home: Path) -> None:
    (put("mine:1b").parent / "manifest.json").write_text("{}")
    store.removal("mine:1b").run()
    assert store.list_models() == []


def test_a_model_in_the_hubs_cache_is_removed_with_its_blob(hub: Hub) -> None:
    store.pull("tiny:1m", progress=False)
    other = store.pull(f"{REF}:Q8_0", progress=False)
    removal = store.removal("tiny:1m")
    assert removal.shared
    assert removal.run() >= len(CONTENT)
    assert [row.name for row in store.list_models()] == ["tiny:1m-q8_0"]
    assert other.read_bytes()
    assert len(list(hub_cache.place(Repository(REPOSITORY)).glob("blobs/*"))) == 1
    store.removal(f"{REF}:q8_0").run()
    assert store.list_models() == []
    assert [path for path in hub_cache.folder().rglob("*") if ".locks" not in path.parts] == []


def test_a_blob_that_another_revision_has_stays(hub: Hub) -> None:
    store.pull(REF, progress=False)
    hub.commit = "d" * 40
    store.pull(REF, progress=False)
    removal = store.removal(REF)
    assert removal.run() == 0
    assert (
        hub_cache.place(Repository(REPOSITORY)) / "snapshots" / ("c0ffee" * 6 + "0000") / "tiny-Q4_K_M.gguf"
    ).exists()


def test_what_a_copy_shares_is_not_counted_as_freed(hub: Hub) -> None:
    store.pull("tiny:1m", progress=False)
    store.copy("tiny:1m", "mine:1b")
    assert store.removal("tiny:1m").run() == 0
    assert store.resolve("mine:1b").read_bytes() == CONTENT
    assert store.removal("mine:1b").run() >= len(CONTENT)


def test_what_cannot_be_removed(home: Path, tmp_path: Path) -> None:
    put("mine:1b")
    with pytest.raises(ModelNotFound, match=r"other:1b is not stored here\. Stored are: mine:1b"):
        store.removal("other:1b")
    with pytest.raises(ModelNotFound, match="not in the hub's cache"):
        store.removal("hf:a/b")
    with pytest.raises(ConfigError, match="a file of yours"):
        store.removal(str(tmp_path / "x.gguf"))


# -- du ----------------------------------------------------------------------------------------------------------------


def test_a_shared_file_is_counted_once(hub: Hub) -> None:
    store.pull("tiny:1m", progress=False)
    alone_it_takes = sum(row.size for row in store.disk_usage())
    assert alone_it_takes >= len(CONTENT)
    store.copy("tiny:1m", "mine:1b")
    rows = {row.name: row.size for row in store.disk_usage()}
    assert sum(rows.values()) - alone_it_takes < 100_000


def test_unfinished_downloads_are_counted_and_removed(home: Path) -> None:
    blobs = hub_cache.place(Repository(REPOSITORY)) / "blobs"
    blobs.mkdir(parents=True)
    (blobs / "abc.befit.incomplete").write_bytes(bytes(50_000))
    stale = layout.partial() / "mine--1.5b.123.d"
    stale.mkdir(parents=True)
    (stale / "half").write_bytes(bytes(50_000))
    rows = [(row.name, row.where) for row in store.disk_usage()]
    assert sorted(rows) == [("(unfinished downloads)", "befit"), ("(unfinished downloads)", "hub")]
    busy = layout.lock("mine:1.5b")
    with alone(busy, lambda: None):
        freed: list[int] = []
        worker = threading.Thread(target=lambda: freed.append(store.remove_unfinished()))
        worker.start()
        worker.join(10)
    assert 50_000 <= freed[0] < 100_000
    assert stale.is_dir()
    assert store.remove_unfinished() >= 50_000
    assert store.disk_usage() == []
    assert os.listdir(blobs) == []
