"""Loads on a scripted server: how many requests, how many at once, in which order; and what comes of them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from befit.bench.scrape import changes, counters, from_counters
from befit.bench.serve import Load, default_requests, measure, run_load, warm_up
from befit.bench.target import Target
from befit.bench.workloads import Lengths, Workload, make_workload
from befit.cli import main
from befit.errors import BenchmarkFailed, ConfigError
from support.fake_openai import DONE, LOST, FakeOpenAI, Pieces, good, head, stream, text_event, whole

Serving = Callable[..., FakeOpenAI]


@pytest.fixture
def bench(serving: Serving) -> Callable[..., tuple[FakeOpenAI, Target, Workload]]:
    """A scripted server with a workload of short prompts; its bodies so far are forgotten."""

    def make(script: Callable[[dict[str, Any]], Pieces] = good, name: str = "random", **lengths: Any) -> Any:
        server = serving()
        target = Target(server.url)
        workload = make_workload(name, target, Lengths(**{"prompt": 8, "output": 4, **lengths}), 0)
        server.bodies.clear()
        server.script, server.most = script, 0
        return server, target, workload

    return make


def test_a_closed_loop_sends_so_many_requests_and_never_more_at_once_than_it_has_clients(bench: Any) -> None:
    server, target, workload = bench()
    run = run_load(target, workload, Load(concurrency=4, requests=30), name="a")
    assert len(run.records) == len(server.bodies) == 30
    assert server.most <= 4
    assert len({body["prompt"] for body in server.bodies}) == 30
    assert all(record.error == "" and record.output_tokens == 4 for record in run.records)


def test_hundreds_of_clients_at_once(bench: Any) -> None:
    server, target, workload = bench()
    numbers = measure(target, workload, Load(concurrency=300, requests=600), name="a")
    assert numbers["completed"] == 600
    assert numbers["output_tokens"]["total"] == 2400
    assert server.most > 100


def test_an_open_loop_sends_all_at_once_when_the_rate_is_infinite(bench: Any) -> None:
    server, target, workload = bench()
    run = run_load(target, workload, Load(rate=math.inf, requests=40), name="a")
    assert len(run.records) == 40
    assert server.most > 4
    assert all(record.due for record in run.records)


def test_an_open_loop_sends_when_requests_are_due(bench: Any) -> None:
    _, target, workload = bench()
    numbers = measure(target, workload, Load(rate=400.0, requests=20), name="a", seed=5)
    assert numbers["completed"] == 20
    assert numbers["late_ms"]["max"] >= 0


def test_a_duration_ends_a_load_and_what_is_under_way_is_waited_for(bench: Any) -> None:
    server, target, workload = bench()
    for load in (Load(concurrency=2, seconds=0.2), Load(rate=50.0, seconds=0.2)):
        server.bodies.clear()
        run = run_load(target, workload, load, name=load.name)
        assert run.records
        assert len(run.records) == len(server.bodies)
        assert not any(record.error for record in run.records)


def test_a_session_has_one_client_and_its_requests_in_order(bench: Any) -> None:
    server, target, workload = bench(name="editor", prompt=60)
    run_load(target, workload, Load(concurrency=3, requests=12), name="a")
    versions: dict[str, list[int]] = {}
    for body in server.bodies:
        words = body["prompt"].split()
        versions.setdefault(" ".join(words[:20]), []).append(len(words))
    assert len(versions) == 3
    assert all(lengths == sorted(lengths) and len(lengths) == 4 for lengths in versions.values())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "either"),
        ({"concurrency": 1, "rate": 1.0, "requests": 1}, "either"),
        ({"concurrency": 1}, "needs an end"),
        ({"rate": 0.0, "requests": 1}, "above 0"),
        ({"rate": math.inf, "seconds": 1.0}, "needs --requests"),
    ],
)
def test_loads_that_cannot_be(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Load(**values)


def test_failures_are_counted_by_kind_beside_what_went_well(bench: Any) -> None:
    replies = iter(range(1000))

    def script(body: dict[str, Any]) -> Pieces:
        turn = next(replies) % 4
        if turn == 0:
            return good(body)
        if turn == 1:
            return whole({"error": {"message": "full"}}, "503 Busy")
        return [head(), LOST] if turn == 2 else stream(text_event("a", "stop"), DONE)

    _, target, workload = bench(script)
    numbers = measure(target, workload, Load(concurrency=1, requests=8), name="a", raw=True)
    assert numbers["completed"] == 4
    assert numbers["errors"] == {"http_503": 2, "connection_lost": 2}
    assert numbers["error_examples"]["http_503"] == "full"
    assert numbers["short"] == numbers["uncounted"] == 2
    assert [one["error"] for one in numbers["per_request"]] == ["", "http_503", "connection_lost", ""] * 2


def test_prompts_of_another_length_are_noticed(bench: Any) -> None:
    server, target, workload = bench()
    server.script = lambda body: good({**body, "prompt": body["prompt"] + " more"})
    numbers = measure(target, workload, Load(concurrency=1, requests=3), name="a")
    assert numbers["other_length"] == 3


def test_warm_up_requests_come_first_and_must_work(bench: Any) -> None:
    server, target, workload = bench()
    warm_up(target, workload, 2)
    assert len(server.bodies) == 2
    warm_up(target, workload, 0)
    assert len(server.bodies) == 2
    server.script = lambda _: whole({"error": {"message": "broken"}}, "500 Oops")
    with pytest.raises(BenchmarkFailed, match=r"warm-up with http_500: broken"):
        warm_up(target, workload, 1)


def test_a_servers_counters_tell_of_its_cache_its_drafts_and_its_own_time(serving: Serving) -> None:
    server = serving()
    target = Target(server.url)
    server.metrics = (
        b"# HELP befit:steps_total Steps.\n"
        b'befit:prefix_cache_queries_tokens_total{model_name="m"} 100\n'
        b'befit:prefix_cache_hits_tokens_total{model_name="m"} 50\n'
        b'befit:request_success_total{model_name="m",finished_reason="stop"} 1\n'
        b'befit:request_success_total{model_name="m",finished_reason="length"} 2\n'
        b"befit:num_requests_running 7\nodd line\nbad_total x\n"
    )
    before = counters(target)
    assert before["befit:request_success_total"] == 3
    assert "befit:num_requests_running" not in before
    server.metrics = (
        b"befit:prefix_cache_queries_tokens_total 300\nbefit:prefix_cache_hits_tokens_total 200\n"
        b"befit:spec_decode_num_draft_tokens_total 40\nbefit:spec_decode_num_accepted_tokens_total 10\n"
        b"befit:step_seconds_sum 1.5\nbefit:generation_tokens_total 1000\nbefit:request_success_total 3\n"
        b"befit:server_cpu_seconds_total 0.03\n"
    )
    moved = changes(before, counters(target))
    assert "befit:request_success_total" not in moved
    assert from_counters(moved, busy=2.0) == {
        "prefix_hit_rate": 0.75,
        "acceptance_rate": 0.25,
        "server_cpu_us": pytest.approx(30),
        "outside_steps_us": pytest.approx(500),
    }
    assert from_counters({"vllm:prefix_cache_queries_total": 10.0}, 1.0) == {"prefix_hit_rate": 0.0}
    assert "outside_steps_us" not in from_counters(moved, busy=None)  # an open loop leaves the server idle at times
    assert from_counters({}, 1.0) == {}


def test_more_clients_get_more_requests_by_default() -> None:
    assert [default_requests(n) for n in (1, 2, 100, None)] == [8, 16, 400, 64]


def test_the_command(serving: Serving, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server, file = serving(), tmp_path / "result.json"
    command = ["bench", "serve", "--url", server.url, "--concurrency", "1,4", "--requests", "8", "--output-tokens", "5"]
    command += ["--goodput", "ttft:60000", "--cost-per-hour", "1", "--json", str(file), "--api-key", "secret", "--raw"]
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert "prompt tokens 128, output tokens 5" in shown
    assert "goodput within ttft 60000 ms" in shown
    text = file.read_text()
    assert "secret" not in text
    result = json.loads(text)
    assert result["benchmark"] == "serve"
    assert result["settings"]["concurrency"] == [1, 4]
    assert result["settings"]["model"] == "scripted"
    assert result["machine"]["isas"]
    assert [run["completed"] for run in result["runs"]] == [8, 8]
    assert [len(run["per_request"]) for run in result["runs"]] == [8, 8]
    assert len(server.streamed) == 2 + 16  # two to warm up


def test_the_command_fails_when_a_request_fails(serving: Serving, capsys: pytest.CaptureFixture[str]) -> None:
    server = serving()

    def script(body: dict[str, Any]) -> Pieces:
        return [LOST] if len(server.streamed) > 3 else good(body)

    server.script = script
    assert main(["bench", "serve", "--url", server.url, "--requests", "4", "--warmup", "1", "--concurrency", "1"]) == 1
    assert "Error: 2 of 4 requests: connection_lost" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--concurrency", "1", "--rate", "2"], 2, "give one of them"),
        (["--concurrency", "0"], 2, "whole numbers of at least 1"),
        (["--rate", "fast"], 2, "numbers above 0"),
        (["--json", "no/such/folder/x.json"], 1, "its folder does not exist"),
        (["--plot", "x.gif"], 1, "ends in .svg or .png"),
        (["--goodput", "speed:1"], 1, "NAME:MILLISECONDS"),
        (["--workload", "file"], 1, "--prompts FILE"),
    ],
)
def test_what_the_command_refuses_before_it_measures(
    serving: Serving, capsys: pytest.CaptureFixture[str], arguments: list[str], status: int, message: str
) -> None:
    server = serving()
    assert main(["bench", "serve", "--url", server.url, *arguments]) == status
    assert message in capsys.readouterr().err
    assert server.bodies == []
