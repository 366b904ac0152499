"""A full disk: what was to be written is not there at all, the words say what is missing, and the server goes on."""

from __future__ import annotations

import asyncio
import hashlib
import json
import resource
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from befit import store
from befit.api.openai.batch import run_batch
from befit.bench.report import write_json
from befit.errors import DoesNotFit
from befit.eval.journal import Journal
from befit.prepared.write import build
from befit.quantize.convert import convert

MOST = 60_000
"""Bytes of a file, where the disk is to be full halfway."""
LONG = "a" * 1_000
MOUNT = 'mount -t tmpfs -o size=1m none "$0" && exec "$@" >> "$0/log" 2>&1'


@contextmanager
def full_after(size: int) -> Iterator[None]:
    """Files of this process take no more than so many bytes: the system says so as it does of a full disk."""
    limit, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, most))


async def _app(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": json.dumps({"text": LONG}).encode()})


def _batch(tiny: Path, place: Path) -> Path:
    source = place.parent / "requests.jsonl"
    lines = [{"custom_id": str(i), "url": "/v1/completions", "body": {}} for i in range(100)]
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))
    asyncio.run(run_batch(_app, source, place / "out.jsonl", at_once=4))
    return place / "out.jsonl"


def _journal(tiny: Path, place: Path) -> Path:
    journal = Journal(place / "report.json", {})
    for number in range(100):
        journal.items[str(number)] = {"text": LONG}
    journal.save()
    return place / "report.json"


def _report(tiny: Path, place: Path) -> Path:
    write_json(place / "bench.json", {"runs": [LONG] * 100})
    return place / "bench.json"


def _build(tiny: Path, place: Path) -> Path:
    build(tiny, place / "built", name="tiny", threads=1)
    return place / "built"


def _quantise(tiny: Path, place: Path) -> Path:
    convert(tiny, place / "q.gguf", to="w8", name="tiny", threads=1, measured=False)
    return place / "q.gguf"


def _copy(tiny: Path, place: Path) -> Path:
    return store.copy(str(tiny), "copied:1")


@pytest.mark.parametrize("write", [_batch, _journal, _report, _build, _quantise, _copy])
def test_what_does_not_fit_is_not_there_by_half(
    write: Callable[[Path, Path], Path], tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    monkeypatch.setenv("BEFIT_HOME", str(place))
    with full_after(MOST), pytest.raises(DoesNotFit, match=r"is full .* takes [\d,]+ bytes and [\d,]+ bytes are free"):
        write(tiny, place)
    left = [path for path in place.rglob("*") if path.is_file() and not path.name.endswith(".lock")]
    if write is _batch:  # whole lines, behind which the next run goes on
        [output] = left
        assert 10 < len([json.loads(line) for line in output.read_text().splitlines()]) < 100
        assert output.read_bytes().endswith(b"\n")
    else:
        assert left == []
    assert write(tiny, place).exists()
    if write is _batch:
        done = [json.loads(line)["custom_id"] for line in output.read_text().splitlines()]
        assert sorted(done, key=int) == [str(number) for number in range(100)]


def test_what_was_there_stays_when_its_successor_does_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    write_json(path, {"runs": []})
    before = path.read_bytes()
    with full_after(MOST), pytest.raises(DoesNotFit):
        write_json(path, {"runs": [LONG] * 100})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, start_for_module: Any, tiny: Path) -> Any:
    """A server whose store and log lie on a disk of one MiB, and where that disk is seen from here."""
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        pytest.skip("this system does not let its users mount anything (unshare -rm)")
    disk = tmp_path_factory.mktemp("disk")
    within = ["unshare", "-rm", "sh", "-c", MOUNT, str(disk), "env", f"BEFIT_HOME={disk}"]
    server = start_for_module(tiny, "--any-model", "--access-log", within=within, log=disk / "log")
    server.disk = Path(f"/proc/{server.process.pid}/root{disk}")
    return server


def files(disk: Path) -> list[str]:
    found = [path for path in disk.rglob("*") if path.is_file()]
    return [path.name for path in found if path.name not in ("log", "filler") and path.suffix != ".lock"]


@contextmanager
def filled(disk: Path, left: int) -> Iterator[None]:
    """So many bytes are free, or a little more: disks count in pages."""
    filler = disk / "filler"
    with open(filler, "wb", buffering=0) as out, suppress(OSError):
        while True:
            out.write(bytes(4096))
    with filler.open("r+b") as out:
        out.truncate(max(0, filler.stat().st_size - left))
    try:
        yield
    finally:
        filler.unlink()


@pytest.mark.parametrize("told", [True, False], ids=["length", "chunked"])
def test_an_upload_that_does_not_fit_is_refused_and_gone(small: Any, told: bool) -> None:
    data = bytes(3_000_001)
    pieces = (data[start : start + 50_001] for start in range(0, len(data), 50_001))
    digest = hashlib.sha256(data).hexdigest()
    expected = small.ask()
    answer = httpx.post(f"{small.url}/api/blobs/sha256:{digest}", content=data if told else pieces, timeout=60)
    assert answer.status_code == 500
    error = answer.json()["error"]
    assert "No space left on device" in error
    assert "bytes are free" in error
    assert not told or "takes 3,000,001 bytes" in error
    assert files(small.disk) == []
    assert small.ask() == expected


def test_a_copy_that_does_not_fit_is_refused_and_gone(small: Any) -> None:
    asked = {"source": "tiny", "destination": "mine:1"}
    expected = small.ask()
    with filled(small.disk, 100_000):
        for path, body in (
            ("/api/copy", asked),
            ("/api/create", {"model": "mine:1", "from": "tiny", "quantize": "q8_0", "stream": False}),
        ):
            answer = httpx.post(small.url + path, json=body, timeout=60)
            assert answer.status_code == 500
            assert "bytes" in answer.json()["error"], answer.text
            assert files(small.disk) == []
        assert small.ask() == expected
    assert httpx.post(f"{small.url}/api/copy", json=asked, timeout=60).status_code == 200
    assert "mine:1" in [model["name"] for model in httpx.get(f"{small.url}/api/tags").json()["models"]]
    assert httpx.request("DELETE", f"{small.url}/api/delete", json={"model": "mine:1"}).status_code == 200


def test_a_log_that_cannot_be_written_stops_nothing(small: Any) -> None:
    log = small.disk / "log"
    expected = small.ask()
    with filled(small.disk, 0):
        before = log.stat().st_size
        for _ in range(25):
            assert small.ask() == expected
        assert log.stat().st_size - before < 4096
    end = time.monotonic() + 20
    lines = log.read_bytes().count(b"\n")
    while log.read_bytes().count(b"\n") <= lines:  # what was written meanwhile is lost, the log goes on
        assert small.ask() == expected
        assert time.monotonic() < end
