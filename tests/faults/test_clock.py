"""The wall clock of a server is set forth and back by hours while it answers: streams, durations, keep_alive.

libfaketime (Debian's package of this name) lies to the server about the date, as it is told while it runs. Without it,
test_machine.py has the clock of Python jump in one process.
"""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.faults
HOUR = 3600
JUMPS = ("+5h", "-7h", "+0", "-30h", "+26h", "-1h")
LONG = {"max_tokens": 600, "temperature": 0, "ignore_eos": True}
OLLAMA = {"model": "tiny", "prompt": "hello hello", "options": {"num_predict": 200, "temperature": 0}}
TGI = {"inputs": "hello hello", "parameters": {"max_new_tokens": 200, "details": True}}


def library() -> Path | None:
    """libfaketime for programs with threads."""
    found = [
        path for place in ("/usr/lib", "/usr/lib64") for path in Path(place).glob("**/faketime/libfaketimeMT.so.1")
    ]
    return found[0] if found else None


class Clock:
    """The server's wall clock: so far from the real one."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.set("+0")

    def set(self, offset: str) -> None:
        fresh = self.file.with_suffix(".new")
        fresh.write_text(f"{offset}\n")
        fresh.replace(self.file)


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Clock:
    if library() is None:
        pytest.skip("libfaketime is not installed: apt-get install libfaketime")
    return Clock(tmp_path_factory.mktemp("clock") / "offset")


@pytest.fixture(scope="module")
def elsewhen(clock: Clock, start_for_module: Any, tiny: Path) -> Any:
    lies = {
        "LD_PRELOAD": library(),
        "FAKETIME_TIMESTAMP_FILE": clock.file,
        "FAKETIME_DONT_FAKE_MONOTONIC": 1,
        "FAKETIME_NO_CACHE": 1,
    }
    return start_for_module(tiny, within=["env", *(f"{name}={value}" for name, value in lies.items())])


@pytest.fixture
def jumping(clock: Clock) -> Iterator[None]:
    """The clock is set every few milliseconds."""
    over = threading.Event()

    def jump() -> None:
        for offset in itertools.cycle(JUMPS):
            clock.set(offset)
            if over.wait(0.02):
                break
        clock.set("+0")

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
    for offset, hours in (("+5h", 5), ("-7h", -7), ("+0", 0)):
        clock.set(offset)
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
        for offset in JUMPS:
            clock.set(offset)
            time.sleep(0.05)
            assert loaded(), f"{offset}: it went before its time"
        clock.set("+0")
        client.post("/api/generate", json={**asked, "keep_alive": "0.3s"})
        clock.set("-7h")
        end = time.monotonic() + 20
        while loaded():
            assert time.monotonic() < end, "it stays although its time is over"
            time.sleep(0.05)
        clock.set("+0")
        assert client.post("/api/generate", json={**asked, "keep_alive": -1}).status_code == 200
