"""A real server in a process of its own, on a free port, with SmolLM2."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from support import compatibility

SIZES = ("--ctx", "1024", "--kv-tokens", "16384")


class ServerProcess:
    """`befit serve` as a user runs it, and an HTTP client of it. `log` grows with what it prints."""

    def __init__(self, model: Path, *options: str) -> None:
        command = [sys.executable, "-m", "befit.cli", "serve", str(model), "--port", "0", *options]
        env = {**os.environ, "PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=env)
        self.log = ""
        try:
            self.url = self._wait_for(r"Serving (http://\S+)/v1", 60)
        except BaseException:
            self.process.kill()
            raise
        self.http = httpx.Client(base_url=self.url, timeout=60)

    def _wait_for(self, pattern: str, seconds: float) -> str:
        """The first group of a pattern in the output, once it is there."""
        assert self.process.stdout is not None
        end = time.monotonic() + seconds
        while True:
            found = re.search(pattern, self.log)
            if found:
                return found[1]
            left = end - time.monotonic()
            ready = left > 0 and select.select([self.process.stdout], [], [], left)[0]
            data = os.read(self.process.stdout.fileno(), 65536) if ready else b""
            assert data, f"no {pattern!r} in the server's output:\n{self.log}"
            self.log += data.decode()

    def metric(self, name: str) -> float:
        """The value of one metric without a label of its own."""
        text = self.http.get("/metrics").text
        found = re.search(rf"^befit:{name}{{model_name=\"[^\"]*\"}} (\S+)$", text, re.MULTILINE)
        assert found, text
        return float(found[1])

    def until_idle(self, seconds: float = 60) -> None:
        """Wait until nothing runs and no KV page is in use; fails when that takes too long."""
        end = time.monotonic() + seconds
        while self.metric("num_requests_running") + self.metric("kv_cache_usage_ratio") > 0:
            assert time.monotonic() < end, "requests or pages are left"
            time.sleep(0.005)

    def stop(self) -> int:
        """End it in order; returns the exit code."""
        self.http.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(60)
        finally:
            self.process.kill()
            assert self.process.stdout is not None
            self.process.stdout.close()


@pytest.fixture(scope="session")
def server(smollm2_path: Path) -> Iterator[ServerProcess]:
    server = ServerProcess(smollm2_path, *SIZES, "--served-name", "smol")
    yield server
    assert server.stop() == 0


@pytest.fixture(scope="session")
def client(server: ServerProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="dummy", max_retries=0, timeout=60) as client:
        yield client


@pytest.fixture
def own_server(smollm2_path: Path) -> Iterator[ServerProcess]:
    """One that the test may end."""
    server = ServerProcess(smollm2_path, *SIZES)
    yield server
    server.stop()


# What clients send is compared with docs/compatibility.md, or written there.

_CALLS: dict[str, list[compatibility.Call]] = {}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Notes the requests of a test; when it has passed, the page must say the same."""
    test = f"{item.path.name}::{item.name}"
    with compatibility.recorded(test) as calls:
        result = yield
    _CALLS[test] = calls
    if not os.environ.get("BEFIT_TEST_RECORD"):
        wrong = compatibility.differences(test, calls, compatibility.read(compatibility.PAGE.read_text("utf-8")))
        assert wrong == [], "run: BEFIT_TEST_RECORD=1 pytest tests/e2e"
    return result


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """BEFIT_TEST_RECORD writes what the tests of this run sent, if all of them passed."""
    if os.environ.get("BEFIT_TEST_RECORD") and exitstatus == 0:
        compatibility.write(_CALLS)
