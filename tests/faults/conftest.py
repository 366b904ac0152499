"""A real server with a tiny model of random weights, and a client that speaks to its socket."""

from __future__ import annotations

import json
import re
import resource
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from befit.bench.processes import ServerProcess
from support.files import tiny_file

SIZES = ("--ctx", "4096", "--kv-tokens", "16384", "--threads", "1", "--no-access-log", "--served-name", "tiny")
PROMPT = {"prompt": "hello hello", "max_tokens": 12, "temperature": 0, "ignore_eos": True}
CHANGED = (
    "import befit.api.listener as listener, befit.api.body as body, befit.cli as cli, sys; {}; sys.exit(cli.main())"
)
"""`befit serve` with a constant of its own, for what would take a minute to wait for."""


class Server:
    """A `befit serve`, what it answers, each time on a new connection, and whether it is as it was."""

    def __init__(
        self,
        model: Path,
        *options: str,
        port: int = 0,
        change: str = "",
        within: Sequence[str] = (),
        log: Path | None = None,
    ) -> None:
        """within: a command that runs another one, put in front of this one; log: the file, as seen there, that gets
        what the server prints."""
        start = ["-c", CHANGED.format(change)] if change else ["-m", "befit.cli"]
        command = [*within, sys.executable, "-u", *start, "serve", str(model), "--port", str(port), *SIZES, *options]
        with _usual_descriptors():
            self.process = ServerProcess("befit", command, port)
        self._log = log and Path(f"/proc/{self.process.pid}/root{log}")
        self.port = self._listens()
        self.url = f"http://127.0.0.1:{self.port}"
        self.http = httpx.Client(base_url=self.url, timeout=60, limits=httpx.Limits(max_keepalive_connections=0))

    def _listens(self) -> int:
        """The port, once it serves there; it is the system's choice, so that nobody else can have it."""
        end = time.monotonic() + 60
        while not (found := re.search(r"Serving http://\S+:(\d+)/v1", self._words())):
            if self.process.status is not None or time.monotonic() > end:
                said = self.process.last_words()
                self.process.stop()
                pytest.fail(f"the server does not serve: {said}")
            time.sleep(0.005)
        return int(found[1])

    def _words(self) -> str:
        if self._log is None:
            return self.process.last_words()
        return self._log.read_text("utf-8") if self._log.exists() else ""

    def ask(self, **wishes: Any) -> str:
        answer = self.http.post("/v1/completions", json={**PROMPT, **wishes})
        assert answer.status_code == 200, answer.text
        text: str = answer.json()["choices"][0]["text"]
        return text

    def metric(self, name: str) -> float:
        for line in self.http.get("/metrics").text.splitlines():
            if line.startswith(f"befit:{name}{{"):
                return float(line.rsplit(" ", 1)[1])
        raise LookupError(name)

    def until_idle(self, seconds: float = 60) -> None:
        """Fails where requests or pages are left."""
        end = time.monotonic() + seconds
        while self.metric("num_requests_running") + self.metric("kv_cache_usage_ratio") > 0:
            assert time.monotonic() < end, "requests or pages are left"
            time.sleep(0.005)

    def connect(self, receive_buffer: int = 0, source: str = "") -> socket.socket:
        """source: the address of this machine to come from."""
        sock = socket.socket()
        if source:
            sock.bind((source, 0))
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.settimeout(30)
        sock.connect(("127.0.0.1", self.port))
        return sock

    def stop(self) -> None:
        self.http.close()
        self.process.stop(60)


@contextmanager
def _usual_descriptors() -> Iterator[None]:
    """Processes that are started meanwhile may open 1,024 files at first, as from most shells."""
    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(1024, most), most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, most))


def http_request(path: str = "/v1/completions", **wishes: Any) -> bytes:
    """A POST with `PROMPT`, as bytes."""
    body = json.dumps({**PROMPT, **wishes}).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_file(tmp_path_factory.mktemp("faults") / "tiny.gguf", context=8192)


@pytest.fixture(scope="session")
def server(tiny: Path) -> Iterator[Server]:
    """One for all tests that do not end it."""
    server = Server(tiny)
    yield server
    server.stop()


@pytest.fixture(scope="session")
def impatient(tiny: Path) -> Iterator[Server]:
    """One that waits a second for clients, not a minute."""
    server = Server(tiny, change="body.BODY_SECONDS = 0.5; listener.STALL_SECONDS = 1")
    yield server
    server.stop()


@pytest.fixture(scope="module")
def start_for_module(tiny: Path) -> Iterator[Callable[..., Server]]:
    """`start` for a server that several tests of a module share."""
    with _starting(tiny) as start:
        yield start


@pytest.fixture
def start(tiny: Path) -> Iterator[Callable[..., Server]]:
    """start(model, *options, port, change, within) -> a server of the test's own."""
    with _starting(tiny) as start:
        yield start


@contextmanager
def _starting(tiny: Path) -> Iterator[Callable[..., Server]]:
    started: list[Server] = []

    def start(model: Path = tiny, *options: str, **settings: Any) -> Server:
        started.append(Server(model, *options, **settings))
        return started[-1]

    yield start
    for server in started:
        server.stop()


@pytest.fixture(scope="session")
def request_bytes() -> Callable[..., bytes]:
    return http_request
