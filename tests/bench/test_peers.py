"""befit beside others: who is asked when, and the ratios."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from befit.bench.peers import Peer, summary
from befit.bench.processes import ServerProcess, fill, free_port
from befit.cli import main
from befit.errors import BenchmarkFailed, ConfigError
from support import fake_openai
from support.fake_openai import FakeOpenAI

Serving = Callable[..., FakeOpenAI]
SCRIPTED = f"{sys.executable} {fake_openai.__file__} {{port}}"


def test_a_peer_is_a_url_or_a_command() -> None:
    assert Peer.parse("vllm=http://host:1/v1") == Peer("vllm", url="http://host:1/v1")
    assert Peer.parse("x=run {model} -p {port} -t a=b") == Peer("x", command="run {model} -p {port} -t a=b")


@pytest.mark.parametrize("text", ["", "llama.cpp", "=http://host/v1", "x=", "x=run it", "x=run '{port}"])
def test_other_peers_are_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        Peer.parse(text)


def test_names_in_a_command_stay_whole() -> None:
    assert fill("run '{model}' --port={port}", port=7, model="my model.gguf") == ["run", "my model.gguf", "--port=7"]


def test_ratios_are_the_median_of_the_rounds_own() -> None:
    def run(server: str, number: int, speed: float | None) -> dict[str, object]:
        return {"work": "w", "server": server, "round": number, "output_tok_s": speed}

    # A machine that slows down from round to round: each round has its own ratio.
    runs = [run("befit", r, v) for r, v in enumerate([400.0, 200.0, 100.0])]
    runs += [run("peer", r, v) for r, v in enumerate([100.0, 50.0, 50.0])]
    runs += [run("silent", r, None) for r in range(3)]
    [row] = summary(runs, {"w": (("tok/s", ("output_tok_s",)),)}, ["befit", "peer", "silent"])
    assert row["values"] == {"befit": 200.0, "peer": 50.0, "silent": None}
    assert row["ratios"] == {"peer": 4.0, "silent": None}


def test_a_process_is_waited_for_watched_and_ended() -> None:
    port = free_port()
    with ServerProcess("scripted", fill(SCRIPTED, port=port, model=""), port) as server:
        assert server.wait_ready() > 0
        resident, peak = server.memory()
        assert 0 < resident <= peak
        assert server.cpu_seconds() > 0
        assert server.status is None
    assert server.status is not None


def test_a_process_that_ends_or_does_not_exist_is_told_with_its_last_words() -> None:
    command = [sys.executable, "-c", "import sys; sys.exit('no such model')"]
    with (
        ServerProcess("broken", command, free_port()) as server,
        pytest.raises(BenchmarkFailed, match=r"broken ended with status 1:\nno such model"),
    ):
        server.wait_ready()
    with pytest.raises(BenchmarkFailed, match="cannot be started"):
        ServerProcess("missing", ["/no/such/program"], 1)


def test_a_process_that_is_never_ready_is_given_up() -> None:
    with (
        ServerProcess("slow", [sys.executable, "-c", "import time; time.sleep(60)"], free_port()) as server,
        pytest.raises(BenchmarkFailed, match=r"was not ready after 0\.1 s"),
    ):
        server.wait_ready(0.1)


def test_servers_end_with_the_benchmark_that_is_told_to_end(tmp_path: Path) -> None:
    code = (
        "import sys, threading\n"
        "from befit.bench.processes import ServerProcess, ending_on_sigterm\n"
        "with ending_on_sigterm(), ServerProcess('child', ['sleep', '60'], 1) as server:\n"
        "    print(server.pid, flush=True)\n"
        "    threading.Event().wait()\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as benchmark:
        assert benchmark.stdout is not None
        child = int(benchmark.stdout.readline())
        benchmark.terminate()
        assert benchmark.wait(20) == 128 + signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


@pytest.mark.parametrize("alone", [False, True])
def test_the_command(serving: Serving, tmp_path: Path, capsys: pytest.CaptureFixture[str], alone: bool) -> None:
    one, file = serving(), tmp_path / "peers.json"
    command = ["bench", "peers", "--peer", f"one={one.url}", "--peer", f"two={SCRIPTED}", "--clients", "1,2"]
    command += ["--repeat", "2", "--prompt-tokens", "20", "--output-tokens", "4", "--prefill-tokens", "40"]
    assert main([*command, "--json", str(file), *(["--alone"] if alone else [])]) == 0
    shown = capsys.readouterr().out
    assert "two: ready after" in shown
    result = json.loads(file.read_text())
    rows = {(row["work"], row["number"]): row for row in result["summary"]}
    assert {work for work, _ in rows} == {"1 client", "2 clients", "prefill 40", "rewrite"}
    assert all(row["ratios"]["two"] > 0 for (_, number), row in rows.items() if number.endswith("tok/s"))
    assert [run["completed"] for run in result["runs"] if run["work"] == "1 client"] == [6] * 4
    prompts = [body["prompt"] for body in one.streamed]
    assert len(prompts) == len({*prompts})  # none twice, so no prefix cache helps


def test_both_servers_get_the_same_prompts(serving: Serving) -> None:
    one, two = serving(), serving()
    command = ["bench", "peers", "--peer", f"one={one.url}", "--peer", f"two={two.url}", "--clients", "2"]
    assert main([*command, "--repeat", "2", "--no-rewrite", "--prefill-tokens", "0"]) == 0
    assert sorted(body["prompt"] for body in one.streamed) == sorted(body["prompt"] for body in two.streamed)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--peer", "one=http://127.0.0.1:1/v1"], "at least two servers"),
        (["--peer", "one=http://127.0.0.1:1/v1", "--peer", "one=http://127.0.0.1:2/v1"], "different names"),
        (["--peer", "one=run {model} {port}", "--peer", "two=http://127.0.0.1:2/v1"], "give --model"),
        (["--peer", "one=http://127.0.0.1:1/v1", "--peer", "two=http://127.0.0.1:1/v1"], "Nothing answers"),
    ],
)
def test_what_the_command_refuses(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "peers", *arguments]) == 1
    assert message in capsys.readouterr().err
