"""The wall clock of a server is set forth and back by hours while it answers: streams, durations, keep_alive.

A few lines of C in front of the C library lie to the server about the date, as they are told while it runs. Without a
compiler, test_machine.py has the clock of Python jump in one process.
"""

from __future__ import annotations

import itertools
import json
import shutil
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.faults
HOUR = 3600
JUMPS = (5, -7, 0, -30, 26, -1)
"""Hours."""
LONG = {"max_tokens": 600, "temperature": 0, "ignore_eos": True}
OLLAMA = {"model": "tiny", "prompt": "hello hello", "options": {"num_predict": 200, "temperature": 0}}
TGI = {"inputs": "hello hello", "parameters": {"max_new_tokens": 200, "details": True}}


LIE = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static int file = -1;

__attribute__((constructor)) static void start(void) { file = open(getenv("CLOCK_OFFSET"), O_RDONLY | O_CLOEXEC); }

int clock_gettime(clockid_t clock, struct timespec *now) {
  int failed = (int)syscall(SYS_clock_gettime, clock, now);
  long long seconds = 0;
  if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE) &&
      pread(file, &seconds, sizeof seconds, 0) == sizeof seconds)
    now->tv_sec += seconds;
  return failed;
}

int gettimeofday(struct timeval *now, void *zone) {
  struct timespec fine;
  (void)zone;
  clock_gettime(CLOCK_REALTIME, &fine);
  now->tv_sec = fine.tv_sec;
  now->tv_usec = fine.tv_nsec / 1000;
  return 0;
}

time_t time(time_t *to) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (to) *to = now.tv_sec;
  return now.tv_sec;
}
"""
"""What a program asks for the date, in front of the C library's: with so many seconds more as a file says."""


class Clock:
    """The server's wall clock: so many hours from the real one."""

    def __init__(self, place: Path, compiler: str) -> None:
        self.library = place / "lie.so"
        source = place / "lie.c"
        source.write_text(LIE)
        subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", self.library, source], check=True)
        self.file = place / "offset"
        self.file.write_bytes(bytes(8))

    def set(self, hours: float) -> None:
        with self.file.open("r+b", buffering=0) as out:
            out.write(struct.pack("q", int(hours * HOUR)))


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Clock:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("a C compiler on Linux is needed to lie about the date")
    return Clock(tmp_path_factory.mktemp("clock"), compiler)


@pytest.fixture(scope="module")
def elsewhen(clock: Clock, start_for_module: Any, tiny: Path) -> Any:
    return start_for_module(tiny, within=["env", f"LD_PRELOAD={clock.library}", f"CLOCK_OFFSET={clock.file}"])


@pytest.fixture
def jumping(clock: Clock) -> Iterator[None]:
    """The clock is set every few milliseconds."""
    over = threading.Event()

    def jump() -> None:
        for hours in itertools.cycle(JUMPS):
            clock.set(hours)
            if over.wait(0.02):
                break
        clock.set(0)

    jumps = threading.Thread(target=jump)
    jumps.start()
    yield
    over.set()
    jumps.join()


def negative(found: Any) -> list[float]:
    """The numbers below 0 in an answer that are no log-probabilities."""
    if isinstance(found, dict):
        return [each for key, value in found.items() if "logprob" not in key for each in negative(value)]
    if isinstance(found, list):
        return [each for value in found for each in negative(value)]
    return [found] if isinstance(found, int | float) and found < 0 else []


def test_the_clock_that_the_server_sees_is_set(elsewhen: Any, clock: Clock) -> None:
    for hours in (5, -7, 0):
        clock.set(hours)
        answer = httpx.post(f"{elsewhen.url}/v1/completions", json={"prompt": "hello", "max_tokens": 1}, timeout=60)
        assert abs(answer.json()["created"] - time.time() - hours * HOUR) < 600


def test_streams_are_whole_and_the_same(elsewhen: Any, jumping: None) -> None:
    expected = elsewhen.ask(**LONG)
    body = {"prompt": "hello hello", "stream": True, **LONG}
    for _ in range(2):
        answer = httpx.post(f"{elsewhen.url}/v1/completions", json=body, timeout=60).text
        events = [json.loads(line[6:]) for line in answer.splitlines() if line.startswith("data: {")]
        assert "".join(event["choices"][0]["text"] for event in events) == expected
        assert answer.rstrip().endswith("data: [DONE]")


def test_no_duration_is_negative_or_takes_hours(elsewhen: Any, jumping: None) -> None:
    with httpx.Client(base_url=elsewhen.url, timeout=60) as client:
        for _ in range(3):
            whole = client.post("/api/generate", json={**OLLAMA, "stream": False}).json()
            last = json.loads(client.post("/api/generate", json=OLLAMA).text.splitlines()[-1])
            for ended in (whole, last):
                durations = [ended[f"{name}_duration"] for name in ("total", "load", "prompt_eval", "eval")]
                assert 0 <= min(durations) <= max(durations) < HOUR * 1e9
            tgi = client.post("/generate", json=TGI)
            times = [float(value) for name, value in tgi.headers.items() if "time" in name]
            assert len(times) == 5
            assert 0 <= min(times) <= max(times) < HOUR * 1e3
            infill = client.post("/infill", json={"input_prefix": "hello", "input_suffix": "", "n_predict": 50}).json()
            chat = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 50}
            others = [client.post(path, json=chat).json() for path in ("/v1/chat/completions", "/v1/messages")]
            assert negative([whole, last, tgi.json(), infill, *others]) == []
        metrics = [line for line in client.get("/metrics").text.splitlines() if line.startswith("befit:")]
        values = {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in metrics}
        seconds = [value for name, value in values.items() if "_seconds_sum{" in name]
        assert len(seconds) >= 4
        assert min(values.values()) >= 0
        assert max(seconds) < HOUR


def test_a_model_stays_and_goes_by_the_time_that_passes(elsewhen: Any, clock: Clock) -> None:
    with httpx.Client(base_url=elsewhen.url, timeout=60) as client:

        def loaded() -> bool:
            return bool(client.get("/api/ps").json()["models"])

        asked = {**OLLAMA, "options": {"num_predict": 1}, "stream": False}
        client.post("/api/generate", json={**asked, "keep_alive": "1h"})
        for hours in JUMPS:
            clock.set(hours)
            time.sleep(0.05)
            assert loaded(), f"{hours} hours: it went before its time"
        clock.set(0)
        client.post("/api/generate", json={**asked, "keep_alive": "0.3s"})
        clock.set(-7)
        end = time.monotonic() + 20
        while loaded():
            assert time.monotonic() < end, "it stays although its time is over"
            time.sleep(0.05)
        clock.set(0)
        assert client.post("/api/generate", json={**asked, "keep_alive": -1}).status_code == 200
