"""What the machine does to a server: files, signals, clocks, descriptors."""

from __future__ import annotations

import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from befit import LLM, SamplingParams

Start = Callable[..., Any]
DONE = "[DONE]"


def test_a_model_file_may_be_replaced_and_gives_no_wrong_answer_when_it_is_cut(
    start: Start, tiny: Path, tmp_path: Path
) -> None:
    """A rename leaves the server the file that it has opened. Cut in place, tables that are read where they lie are
    gone with the file: then the system ends the server."""
    model = tmp_path / "model.gguf"
    shutil.copy(tiny, model)
    server = start(model)
    expected = server.ask()
    with model.open("r+b") as opened:
        other = tmp_path / "other"
        other.write_bytes(b"something else")
        os.replace(other, model)
        assert server.ask() == expected
        opened.truncate(100)
    try:
        assert server.ask() == expected
    except httpx.TransportError:
        while server.process.status is None:
            time.sleep(0.05)
        assert server.process.status == -signal.SIGBUS


def test_a_server_that_was_stopped_goes_on(server: Any) -> None:
    wishes = {"prompt": "hello hello", "max_tokens": 600, "temperature": 0, "ignore_eos": True, "stream": True}
    expected = server.ask(max_tokens=600)
    got = ""
    with httpx.stream("POST", f"{server.url}/v1/completions", json=wishes, timeout=60) as answer:
        for number, line in enumerate(answer.iter_lines()):
            if number == 20:
                os.kill(server.process.pid, signal.SIGSTOP)
                threading.Timer(0.5, os.kill, (server.process.pid, signal.SIGCONT)).start()
            if line.startswith("data: {"):
                got += httpx.Response(200, content=line[6:]).json()["choices"][0]["text"]
    assert got == expected
    server.until_idle()


def test_without_descriptors_new_clients_wait_and_old_ones_are_served(server: Any) -> None:
    import resource

    expected = server.ask()
    with httpx.Client(base_url=server.url, timeout=30) as old:
        assert old.get("/health").status_code == 200
        used = len(os.listdir(f"/proc/{server.process.pid}/fd"))
        before = resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (used + 8, before[1]))
        crowd = [server.connect() for _ in range(30)]
        body = {"prompt": "hello hello", "max_tokens": 12, "temperature": 0, "ignore_eos": True}
        assert old.post("/v1/completions", json=body).json()["choices"][0]["text"] == expected
        for sock in crowd:
            sock.close()
        end = time.monotonic() + 20
        while True:  # as soon as there are descriptors again, new clients are served too
            try:
                assert server.ask() == expected
                break
            except httpx.TransportError:
                assert time.monotonic() < end
                time.sleep(0.2)
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, before)


def test_a_killed_server_that_is_started_again_is_what_a_retrying_client_sees(start: Start) -> None:
    first = start()
    expected = first.ask(max_tokens=300)
    client = openai.OpenAI(base_url=f"{first.url}/v1", api_key="none", max_retries=8, timeout=30)
    answers = []

    def ask() -> None:
        for _ in range(4):
            answer = client.completions.create(
                model="tiny", prompt="hello hello", max_tokens=300, temperature=0, extra_body={"ignore_eos": True}
            )
            answers.append(answer.choices[0].text)

    def stream(number: int) -> None:
        """A stream that breaks off is asked for anew; what came of it was a beginning."""
        body = {"prompt": "hello hello", "max_tokens": 300, "temperature": 0, "ignore_eos": True, "stream": True}
        end = time.monotonic() + 60
        while not streamed[number].endswith(DONE) and time.monotonic() < end:
            streamed[number] = ""
            try:
                with httpx.stream("POST", f"{first.url}/v1/completions", json=body, timeout=30) as answer:
                    for line in answer.iter_lines():
                        if line.startswith("data: {"):
                            streamed[number] += httpx.Response(200, content=line[6:]).json()["choices"][0]["text"]
                            assert expected.startswith(streamed[number])
                        elif line.startswith("data: "):
                            streamed[number] += DONE
            except httpx.TransportError:
                broken.append(number)
                time.sleep(0.1)

    streamed, broken = [""] * 6, list[int]()
    asking = [threading.Thread(target=ask), *(threading.Thread(target=stream, args=(i,)) for i in range(6))]
    for thread in asking:
        thread.start()
    time.sleep(0.1)
    os.kill(first.process.pid, signal.SIGKILL)
    first.process.stop()
    start(port=first.port)
    for thread in asking:
        thread.join(60)
    client.close()
    assert answers == [expected] * 4
    assert streamed == [expected + DONE] * 6
    assert broken


def test_a_clock_that_jumps_by_hours_changes_nothing(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Time is measured by clocks that nobody sets; the wall clock only dates answers."""
    params = SamplingParams(temperature=0, max_tokens=40, ignore_eos=True)
    with LLM(str(tiny), progress=False, ctx=256, kv_tokens=1024, threads=1) as llm:
        expected = llm.generate("hello hello", params, use_tqdm=False)[0].outputs[0].text
        wall, rng = time.time, random.Random(1)
        monkeypatch.setattr(time, "time", lambda: wall() + rng.uniform(-9e4, 9e4))
        assert llm.generate("hello hello", params, use_tqdm=False)[0].outputs[0].text == expected


def test_weights_that_are_no_numbers_fail_the_request_with_words(start: Start, tmp_path: Path, tiny: Path) -> None:
    """A damaged file: NaN in the last norm. The server stays and says what is wrong."""
    import numpy as np

    from befit.weights.gguf import GGUFFile

    model = tmp_path / "damaged.gguf"
    shutil.copy(tiny, model)
    with GGUFFile.open(model) as file:
        start_of, size = file.infos["output_norm.weight"].start, file.infos["output_norm.weight"].nbytes
    with model.open("r+b") as raw:
        raw.seek(start_of)
        raw.write(np.full(size // 4, np.nan, np.float32).tobytes())
    server = start(model)
    for _ in range(5):
        answer = httpx.post(f"{server.url}/v1/completions", json={"prompt": "hello", "max_tokens": 4}, timeout=30)
        assert answer.status_code == 500
        assert answer.json()["error"]["code"] == "non_finite_logits"
        assert "damaged" in answer.json()["error"]["message"]
    assert httpx.get(f"{server.url}/health").status_code == 200
