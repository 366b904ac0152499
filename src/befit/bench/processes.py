"""Servers as processes: started, waited for, watched through /proc, and ended with all that they have started."""

from __future__ import annotations

import contextlib
import http.client
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from befit.errors import BenchmarkFailed, ConfigError

POLL_SECONDS = 0.005
_CLOCK = os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def ending_on_sigterm() -> Iterator[None]:
    """Let SIGTERM unwind this process as an exception does, so that the servers it has started end with it."""

    def leave(number: int, _frame: object) -> None:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def free_port() -> int:
    """A TCP port that nothing listens on now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def befit_command(model: str, port: int, options: Sequence[str] = ()) -> list[str]:
    """`befit serve` with the interpreter that runs this."""
    return [sys.executable, "-m", "befit.cli", "serve", model, "--port", str(port), *options]


def fill(template: str, *, port: int, model: str) -> list[str]:
    """A command from its template; {port} and {model} stand for themselves. Raises ConfigError without a {port}."""
    if "{port}" not in template:
        raise ConfigError(f"The command {template!r} has no {{port}}: a server is told where to listen with it.")
    try:
        words = shlex.split(template)
    except ValueError as error:
        raise ConfigError(f"The command {template!r} cannot be read: {error}.") from None
    return [word.replace("{port}", str(port)).replace("{model}", model) for word in words]


class ServerProcess:
    """A server in a session of its own, on `port` of this machine; `with` ends it."""

    def __init__(self, name: str, command: Sequence[str], port: int) -> None:
        self.name = name
        self.port = port
        self.started = time.perf_counter()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the server; stop() closes it)
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=self._log, stderr=subprocess.STDOUT, start_new_session=True
            )
        except OSError as error:
            self._log.close()
            raise BenchmarkFailed(f"{name} cannot be started: {error}.") from None
        self.pid = self._process.pid

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def wait_ready(self, seconds: float = 600) -> float:
        """Wait for GET /health to answer 200, for servers without it GET /v1/models; seconds since the start.

        Raises BenchmarkFailed with the server's last words when it ends or takes too long.
        """
        while not _answers(self.port, "/health", "/v1/models"):
            if self._process.poll() is not None:
                raise BenchmarkFailed(f"{self.name} ended with status {self._process.returncode}:\n{self.last_words()}")
            if time.perf_counter() - self.started > seconds:
                raise BenchmarkFailed(f"{self.name} was not ready after {seconds:g} s:\n{self.last_words()}")
            time.sleep(POLL_SECONDS)
        return time.perf_counter() - self.started

    def last_words(self, limit: int = 2000) -> str:
        """The end of what it printed."""
        self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, self._log.tell() - limit))
        return self._log.read().decode("utf-8", "replace").strip()

    def cpu_seconds(self) -> float:
        """Processor time of the session's processes that are there."""
        return sum(sum(map(int, stat[11:13])) for stat in self._stats()) / _CLOCK

    def memory(self) -> tuple[int, int]:
        """(resident now, the most there was) in bytes, added up over the session's processes."""
        return self._status("VmRSS"), self._status("VmHWM")

    def stop(self, seconds: float = 60) -> float:
        """SIGTERM, and SIGKILL for what is left after a while; seconds until it had ended."""
        begin = time.perf_counter()
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(seconds)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        self._log.close()
        return time.perf_counter() - begin

    @property
    def status(self) -> int | None:
        """Its exit status; None while it runs."""
        return self._process.poll()

    def _pids(self) -> list[int]:
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                pid = int(folder.name)
                if os.getsid(pid) == self.pid:
                    found.append(pid)
        return found

    def _stats(self) -> list[list[str]]:
        """Fields of /proc/PID/stat from the third on."""
        stats = []
        for pid in self._pids():
            with contextlib.suppress(OSError):
                stats.append(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split())
        return stats

    def _status(self, field: str) -> int:
        total = 0
        for pid in self._pids():
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                    if line.startswith(field + ":"):
                        total += 1024 * int(line.split()[1])
        return total


def _answers(port: int, *paths: str) -> bool:
    """Whether a path answers 200; a path is tried when the one before does not exist."""
    for path in paths:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", path)
            status = connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
        if status != 404:
            return status == 200
    return False
