"""Fetching from the hub: whole and checked, or not at all; and what goes wrong on the way."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import SimpleNamespace

import pytest

from befit import store
from befit.errors import BefitError, ConfigError, DoesNotFit, DownloadError, ModelNotFound
from befit.store import hub_cache, hub_fetch, hub_http, transfer
from befit.store.hub import RemoteFile
from befit.store.hub_fetch import Wanted
from befit.store.hub_http import Disconnected
from befit.store.repository import Repository
from support.hub import COMMIT, Hub

from .conftest import CONTENT, REPOSITORY

REF = f"hf:{REPOSITORY}"
FILE = "tiny-Q4_K_M.gguf"
DIGEST = hashlib.sha256(CONTENT).hexdigest()
Fault = Callable[[BaseHTTPRequestHandler], bool]


def pull(ref: str = REF) -> Path:
    return store.pull(ref, progress=False)


def cache() -> Path:
    return hub_cache.place(Repository(REPOSITORY))


def unfinished() -> list[Path]:
    return sorted(cache().glob("blobs/*.incomplete"))


def cut(at: int) -> Fault:
    """The connection breaks after so many bytes of the body."""

    def fault(request: BaseHTTPRequestHandler) -> bool:
        first = int((request.headers.get("Range") or "bytes=0-")[6:].partition("-")[0])
        request.send_response(206 if first else 200)
        request.send_header("Content-Length", str(len(CONTENT) - first))
        request.send_header("Connection", "close")
        if first:
            request.send_header("Content-Range", f"bytes {first}-{len(CONTENT) - 1}/{len(CONTENT)}")
        request.end_headers()
        request.wfile.write(CONTENT[first : first + at])
        return True

    return fault


def answers(status: int, **headers: str) -> Fault:
    def fault(request: BaseHTTPRequestHandler) -> bool:
        request.send_response(status)
        for name, value in {"Content-Length": "0", "Connection": "close", **headers}.items():
            request.send_header(name.replace("_", "-"), value)
        request.end_headers()
        return True

    return fault


def sends(data: bytes) -> Fault:
    """Another body than the file's."""

    def fault(request: BaseHTTPRequestHandler) -> bool:
        request.send_response(200)
        request.send_header("Content-Length", str(len(data)))
        request.send_header("Connection", "close")
        request.end_headers()
        request.wfile.write(data)
        return True

    return fault


# -- what a pull leaves ------------------------------------------------------------------------------------------------


def test_a_file_lies_where_every_tool_finds_it(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    path = store.pull(REF)
    assert path == cache() / "snapshots" / COMMIT / FILE
    assert path.read_bytes() == CONTENT
    assert path.resolve() == cache() / "blobs" / DIGEST
    assert (cache() / "refs" / "main").read_text() == COMMIT
    assert unfinished() == []
    from huggingface_hub import hf_hub_download

    found = hf_hub_download(REPOSITORY, FILE, cache_dir=hub_cache.folder(), local_files_only=True)
    assert Path(found) == path
    assert f"Fetching {REF}: 100%" in capsys.readouterr().err


def test_names_of_the_catalogue_come_from_the_hub(hub: Hub) -> None:
    assert pull("tiny:1m") == pull(REF)
    assert pull("tiny:1m-q8_0").name == "tiny-Q8_0.gguf"
    assert store.resolve("tiny") == store.resolve("tiny:1m", pull=False)


@pytest.mark.parametrize("ref", [f"{REF}:Q8_0", f"{REF}:tiny-Q8_0.gguf", f"{REF}@main:q8_0", f"{REF}:q8_0@{COMMIT}"])
def test_a_file_is_chosen_by_name_or_quantisation(hub: Hub, ref: str) -> None:
    assert pull(ref).name == "tiny-Q8_0.gguf"
    assert hub.fetched(FILE) == []
    assert store.find(ref) == pull(ref)


def test_another_quantisation_that_is_here_does_not_stand_in(hub: Hub) -> None:
    (hub.root / REPOSITORY / "tiny-F16.gguf").write_bytes(b"GGUF")
    pull(f"{REF}:q8_0")
    assert store.find("tiny:1m") is None
    assert store.find(REF) == pull(f"{REF}:q8_0")  # the only one that is here
    pull(f"{REF}:f16")
    assert store.find(REF) is None
    assert store.resolve(REF, progress=False).name == FILE


def test_what_is_there_is_not_fetched_again(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    path = pull()
    sent = hub.sent
    assert store.pull(REF) == path
    assert f"Checking {REF}: 100%" in capsys.readouterr().err
    assert hub.fetched(FILE) == [None]
    assert hub.sent - sent < 2000
    count = len(hub.requests)
    assert store.resolve(REF) == path
    assert len(hub.requests) == count


def test_what_another_tool_has_fetched_is_found(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import hf_hub_download

    path = hf_hub_download(REPOSITORY, FILE, cache_dir=hub_cache.folder(), endpoint=hub.url)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert str(store.resolve("tiny:1m")) == path
    assert str(store.resolve(REF)) == path


def test_a_damaged_file_is_fetched_again(hub: Hub) -> None:
    path = pull()
    path.resolve().write_bytes(b"X" * len(CONTENT))
    assert pull().read_bytes() == CONTENT
    os.truncate(path.resolve(), 100)
    assert pull().read_bytes() == CONTENT


def test_all_parts_of_a_split_model_come(hub: Hub) -> None:
    names = [f"big-0000{n}-of-00002.gguf" for n in (1, 2)]
    for name in names:
        (hub.root / REPOSITORY / name).write_bytes(name.encode() * 100)
    path = pull(f"{REF}:{names[1]}")
    assert path.name == names[0]
    assert sorted(each.name for each in path.parent.iterdir()) == names
    assert store.find(f"{REF}:{names[0]}") == path
    (path.parent / names[1]).unlink()
    assert store.find(f"{REF}:{names[0]}") is None


def test_a_folder_of_safetensors_comes_with_its_tokeniser(hub: Hub) -> None:
    place = hub.root / "tester" / "whole"
    place.mkdir()
    wanted = {
        "config.json": '{"architectures": ["LlamaForCausalLM"]}',
        "tokenizer.json": "{}",
        "model.safetensors.index.json": '{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}',
        "model-1.safetensors": "1",
        "model-2.safetensors": "2",
    }
    for name, text in {**wanted, "model-3.safetensors": "3", "run.py": "", "x/model.safetensors": ""}.items():
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).write_text(text)
    path = pull("hf:tester/whole")
    assert {each.name: each.read_text() for each in path.iterdir()} == wanted
    assert store.resolve("hf:tester/whole") == path
    assert [row.name for row in store.list_models()] == ["hf:tester/whole"]
    (path / "model-2.safetensors").resolve().unlink()
    assert store.find("hf:tester/whole") is None


def test_a_hub_that_lists_names_only_is_asked_for_each_file(hub: Hub) -> None:
    hub.blobs = False
    assert pull().read_bytes() == CONTENT


def test_another_servers_own_etag_says_nothing(hub: Hub) -> None:
    def mirrors(request: BaseHTTPRequestHandler) -> bool:
        request.send_response(200)
        for name, value in {
            "ETag": f'"{"ab" * 32}"',
            "Content-Length": str(len(CONTENT)),
            "Connection": "close",
        }.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(CONTENT)
        return True

    hub.faults = [mirrors]
    assert pull().read_bytes() == CONTENT


def test_the_files_may_lie_on_another_server(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    from support.hub import serve

    monkeypatch.setenv("HF_TOKEN", "secret")
    with serve(hub.root) as other:
        hub.redirect_to = other.url
        assert pull().read_bytes() == CONTENT
        assert {token for _, _, token in hub.requests} == {"Bearer secret"}
        assert {token for _, _, token in other.requests} == {None}


# -- faults ------------------------------------------------------------------------------------------------------------


def test_a_cut_connection_goes_on_where_it_broke(hub: Hub) -> None:
    hub.faults = [cut(300_000), cut(200_000), answers(503), cut(0)]
    assert pull().read_bytes() == CONTENT
    ranges = hub.fetched(FILE)
    assert len(ranges) == 5
    assert ranges[0] is None
    starts = [int(each[6:-1]) for each in ranges[1:] if each]
    assert starts == sorted(starts)
    assert 0 < starts[0] <= 300_000 < starts[1] <= 500_000
    assert starts[1:] == [starts[1]] * 3


def test_a_connection_that_says_nothing_any_more_is_made_anew(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_http, "TIMEOUT_SECONDS", 0.3)

    def stalls(request: BaseHTTPRequestHandler) -> bool:
        request.send_response(200)
        request.send_header("Content-Length", str(len(CONTENT)))
        request.end_headers()
        request.wfile.write(CONTENT[:100_000])
        time.sleep(0.6)
        return True

    hub.faults = [stalls]
    assert pull().read_bytes() == CONTENT
    assert len(hub.fetched(FILE)) >= 2


def test_a_server_without_ranges_begins_anew(hub: Hub) -> None:
    hub.ranges = False
    hub.faults = [cut(300_000)]
    assert pull().read_bytes() == CONTENT


def test_what_came_before_a_failure_is_kept_and_continued(hub: Hub) -> None:
    hub.faults = [cut(300_000)] + [answers(500)] * transfer.ATTEMPTS
    with pytest.raises(DownloadError, match=r"HTTP 500.*\d{3},\d{3} of 1,048,580 bytes are kept: run the same again"):
        pull()
    assert not (cache() / "snapshots").exists()
    assert store.find(REF) is None
    (kept,) = unfinished()
    assert 0 < kept.stat().st_size <= 300_000
    assert CONTENT.startswith(kept.read_bytes())
    there = kept.stat().st_size
    hub.faults = []
    assert pull().read_bytes() == CONTENT
    assert hub.fetched(FILE)[-1] == f"bytes={there}-"
    assert unfinished() == []


def test_a_busy_hub_is_waited_for(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(transfer, "sleep", waits.append)
    hub.faults = [answers(429, Retry_After="7"), answers(503, Retry_After="soon"), answers(502)]
    assert pull().read_bytes() == CONTENT
    assert waits == [7.0, 2.0, 4.0]


def test_a_busy_hub_is_asked_for_its_list_again(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def recovers(_: float) -> None:
        hub.status = None

    monkeypatch.setattr(transfer, "sleep", recovers)
    hub.status = 503
    assert pull().read_bytes() == CONTENT


def test_a_connection_that_was_closed_meanwhile_is_made_anew(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = hub_fetch.hub.list_files, []

    def fails_once(repository: Repository) -> object:
        calls.append(repository)
        if len(calls) == 1:
            raise Disconnected("Server disconnected without sending a response.")
        return real(repository)

    monkeypatch.setattr(hub_fetch.hub, "list_files", fails_once)
    assert pull().read_bytes() == CONTENT
    assert len(calls) == 2


def test_a_hub_that_asks_for_hours_is_not_waited_for(hub: Hub) -> None:
    hub.faults = [answers(429, Retry_After="7200")]
    with pytest.raises(DownloadError, match="HTTP 429"):
        pull()


def test_a_hub_that_is_down_is_given_up(hub: Hub) -> None:
    hub.faults = [answers(503)] * 20
    with pytest.raises(DownloadError, match="HTTP 503"):
        pull()
    assert len(hub.fetched(FILE)) == transfer.ATTEMPTS


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (sends(CONTENT + b"more"), r"should be 1,048,580 bytes long and the server says 1,048,584"),
        (sends(CONTENT[:1000]), r"should be 1,048,580 bytes long and the server says 1,000"),
        (answers(200, X_Linked_Etag=f'"{"ab" * 32}"'), r"changed on the hub while it was fetched: it is abab"),
        (answers(404), "no such repository, revision or file"),
        (answers(416), "HTTP 416"),
    ],
    ids=["too long", "too short", "stale digest", "gone", "no such range"],
)
def test_another_file_under_the_same_name_is_refused(hub: Hub, fault: Fault, text: str) -> None:
    hub.faults = [fault] * 3
    with pytest.raises(BefitError, match=text):
        pull()
    assert store.list_models() == []


def test_a_file_that_changes_between_parts_is_fetched_as_it_is_now(hub: Hub) -> None:
    fresh = b"GGUF" + os.urandom(1 << 19)

    def changes(request: BaseHTTPRequestHandler) -> bool:
        cut(300_000)(request)
        (hub.root / REPOSITORY / FILE).write_bytes(fresh)
        return True

    hub.faults = [changes]
    path = pull()
    assert path.read_bytes() == fresh
    assert path.resolve().name == hashlib.sha256(fresh).hexdigest()


def test_a_wrong_digest_is_refused_and_deleted(hub: Hub) -> None:
    altered = CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])
    hub.faults = [sends(altered)]
    with pytest.raises(DownloadError, match=rf"its digest is not {DIGEST}.*deleted"):
        pull()
    assert [path.stat().st_size for path in unfinished()] == [0]
    assert not (cache() / "blobs" / DIGEST).exists()
    assert pull().read_bytes() == CONTENT


def test_a_damaged_beginning_is_thrown_away(hub: Hub) -> None:
    part = cache() / "blobs" / f"{DIGEST}.befit.incomplete"
    for damaged in (b"X" * 5000, CONTENT + b"more", CONTENT[:-1] + b"X"):
        part.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(damaged)
        assert pull().read_bytes() == CONTENT
        (cache() / "blobs" / DIGEST).unlink()


def test_the_digest_of_a_small_file_is_gits(hub: Hub) -> None:
    place = hub.root / "tester" / "small"
    place.mkdir()
    (place / "config.json").write_text("{}")
    (place / "model.safetensors").write_text("weights")
    hub.digests = {"config.json": "ab" * 20}
    with pytest.raises(DownloadError, match=r"config\.json changed on the hub"):
        pull("hf:tester/small")


@pytest.mark.parametrize(
    ("status", "headers", "error", "text"),
    [
        (401, {}, DownloadError, "private.*HF_TOKEN"),
        (
            403,
            {"X-Error-Code": "GatedRepo"},
            DownloadError,
            f"gated.*accept its conditions at .*{REPOSITORY}.*HF_TOKEN",
        ),
        (404, {}, ModelNotFound, "no such repository"),
        (429, {}, DownloadError, "HTTP 429"),
        (504, {}, DownloadError, "HTTP 504"),
        (418, {}, DownloadError, "HTTP 418.*HF_ENDPOINT"),
    ],
)
def test_what_the_hub_refuses(
    hub: Hub, status: int, headers: dict[str, str], error: type[BefitError], text: str
) -> None:
    hub.status, hub.headers = status, headers
    with pytest.raises(error, match=text):
        pull()


def test_offline_nothing_is_asked(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DownloadError, match="HF_HUB_OFFLINE is set"):
        pull()
    assert hub.requests == []


def test_a_proxy_is_used(hub: Hub) -> None:
    code = f"from befit import store; print(store.pull({REF!r}, progress=False))"
    env = {**os.environ, "HF_ENDPOINT": "http://hub.invalid", "HTTP_PROXY": hub.url, "http_proxy": hub.url}
    for name in ("NO_PROXY", "no_proxy", "ALL_PROXY", "all_proxy"):
        env.pop(name, None)
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).read_bytes() == CONTENT


def test_nobody_at_the_endpoint(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DownloadError, match=r"127\.0\.0\.1:9.*check the network, HF_ENDPOINT"):
        pull()
    monkeypatch.setenv("HF_ENDPOINT", "hub")
    with pytest.raises(ConfigError, match="must begin with http"):
        pull()


@pytest.mark.parametrize(
    "ref", ["hf:", "hf:a", "hf:a/b/c", "hf:a/b@", "hf:../b", "hf:a/..", "hf:a/b:", "hf:a/b@../x", "hf:a/b:../x"]
)
def test_what_is_no_repository(home: Path, ref: str) -> None:
    with pytest.raises(ModelNotFound, match="write hf:OWNER/REPOSITORY"):
        pull(ref)
    with pytest.raises(ModelNotFound, match="write hf:OWNER/REPOSITORY"):
        store.resolve(ref)


# -- a hub that means harm ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["../../../../evil.gguf", "/tmp/evil.gguf", "a/../../evil.gguf", "a\\\\b.gguf", "..gguf/../x"]
)
def test_a_file_cannot_lead_out_of_its_folder(hub: Hub, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = {"sha": COMMIT, "siblings": [{"rfilename": name, "size": 4, "lfs": {"sha256": "ab" * 32, "size": 4}}]}
    monkeypatch.setattr(hub_fetch.hub, "parse_json", lambda data, where: listed)
    with pytest.raises(ModelNotFound, match="it is empty"):
        pull()


@pytest.mark.parametrize("commit", ["../../..", "", "main", None, 3])
def test_a_commit_is_a_commit(hub: Hub, commit: object, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.commit = commit  # type: ignore[assignment]
    monkeypatch.setattr(hub_fetch.hub, "describe_file", lambda repository, path: (RemoteFile(path, 4, "ab" * 32), None))
    with pytest.raises(DownloadError, match="does not say size, digest and commit"):
        pull()


@pytest.mark.parametrize(
    "answer",
    [b"[]", b"{", b'{"siblings": 3}', b'{"siblings": [3, {"rfilename": 3}, {"lfs": []}]}', b"\xff", b"[" * 100_000],
)
def test_a_list_that_makes_no_sense(hub: Hub, answer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_fetch.hub, "_read", lambda *_: (answer, len(answer)))
    with pytest.raises(BefitError):
        pull()


# -- room and company --------------------------------------------------------------------------------------------------


def test_it_is_asked_for_before_it_is_fetched(hub: Hub) -> None:
    asked: list[Wanted] = []

    def refuse(wanted: Wanted) -> None:
        asked.append(wanted)
        raise DoesNotFit("too large")

    for _ in range(2):
        with pytest.raises(DoesNotFit, match="too large"):
            store.resolve("tiny:1m", progress=False, admit=refuse)
    assert hub.fetched(FILE) == []
    assert asked[0].size == len(CONTENT)
    assert asked[0].repository == Repository(REPOSITORY, COMMIT, FILE)
    pull()
    assert store.resolve("tiny:1m", admit=refuse) == store.pull("tiny:1m", False, refuse)
    assert len(asked) == 2


def test_a_disk_without_room_is_told_before_the_download(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_fetch.shutil, "disk_usage", lambda _: SimpleNamespace(free=500_000))
    with pytest.raises(DownloadError, match=r"takes 1 MB of disk .* has 0 MB free.*befit du.*HF_HOME"):
        pull()
    assert hub.fetched(FILE) == []


def test_a_disk_that_fills_up_keeps_what_came(hub: Hub, tmp_path: Path) -> None:
    code = (
        "import resource, signal, sys; from befit import store; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, resource.RLIM_INFINITY));"
        f"store.pull({REF!r}, progress=False)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ended.returncode != 0
    assert "is full" in ended.stderr
    assert "What has come is kept" in ended.stderr
    (kept,) = unfinished()
    assert kept.stat().st_size == 400_000
    assert pull().read_bytes() == CONTENT
    assert hub.fetched(FILE)[-1] == "bytes=400000-"


def test_other_errors_of_the_disk_are_told(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(transfer.os, "replace", fails)
    with pytest.raises(DownloadError, match=r"cannot store .* Read-only file system.*Set HF_HOME"):
        pull()


@pytest.mark.parametrize(("by", "status"), [(signal.SIGKILL, -9), (signal.SIGTERM, -15), (signal.SIGINT, 130)])
def test_a_killed_download_goes_on(hub: Hub, by: signal.Signals, status: int) -> None:
    hub.holds_at = 400_000
    command = [sys.executable, "-m", "befit.cli", "pull", "--force", REF]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        end = time.monotonic() + 60
        while sum(path.stat().st_size for path in unfinished()) < 300_000:
            assert time.monotonic() < end
            time.sleep(0.005)
        process.send_signal(by)
    assert process.returncode == status
    (kept,) = unfinished()
    there = kept.stat().st_size
    assert 300_000 <= there < len(CONTENT)
    assert store.find(REF) is None
    hub.holds_at = None
    assert pull().read_bytes() == CONTENT
    assert hub.fetched(FILE)[-1] == f"bytes={there}-"


def test_two_who_want_the_same_model_download_once(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    hub.holds_at = 300_000
    paths: list[Path] = []
    threads = [threading.Thread(target=lambda: paths.append(store.pull(REF))) for _ in range(2)]
    threads[0].start()
    while not unfinished():
        time.sleep(0.005)
    threads[1].start()
    said = ""
    while f"Another process is fetching {FILE}" not in said:
        time.sleep(0.005)
        said += capsys.readouterr().err
    hub.holds_at = None
    for thread in threads:
        thread.join(60)
    assert len(set(paths)) == 1
    assert len(paths) == 2
    assert hub.fetched(FILE) == [None]
