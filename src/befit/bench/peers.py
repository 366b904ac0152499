"""befit beside other servers: the same work in the same run, and the ratios that come of it.

In each round every server gets the same prompts, none of which comes twice, so that no prefix cache helps; who begins
changes from round to round. A ratio is the median over the rounds of befit / peer within the round.
"""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from befit.bench.calibrate import find_model
from befit.bench.processes import ServerProcess, befit_command, fill, free_port
from befit.bench.serve import Load, measure, warm_up
from befit.bench.target import Target
from befit.bench.workloads import Lengths, Workload, make_workload
from befit.errors import ConfigError

IDLE = 0.05
"""Of one core: a server that takes more while it waits for its turn disturbs the others."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A server by its URL, or by the command that starts it."""

    name: str
    url: str = ""
    command: str = ""
    words: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Peer:
        """`NAME=URL` or `NAME=COMMAND with {port} and {model}`. Raises ConfigError."""
        name, equals, rest = text.partition("=")
        if not equals or not name.strip() or not rest.strip():
            raise ConfigError(f"--peer is {text!r}; give NAME=URL or NAME='COMMAND with {{port}} and {{model}}'.")
        if rest.startswith(("http://", "https://")):
            return cls(name.strip(), url=rest)
        fill(rest, port=0, model="")  # complains about what is wrong with it
        return cls(name.strip(), command=rest)


@dataclass(frozen=True, slots=True)
class Work:
    """One piece of work, and which numbers of it are compared: (label, path in a result)."""

    name: str
    load: Load
    workload: Workload
    numbers: tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(slots=True)
class Server:
    """A peer while it runs, or befit itself."""

    peer: Peer
    process: ServerProcess | None = None
    target: Target | None = None
    ready: list[float] = field(default_factory=list)
    idle_cpu: float = 0.0

    @property
    def name(self) -> str:
        """What it is called in the report."""
        return self.peer.name

    def start(self, model: str, *, chat: bool, keep_text: bool) -> None:
        """Start it if it is not there, and find out what it serves. Raises BenchmarkFailed."""
        url = self.peer.url
        if not url:
            port = free_port()
            command = (
                fill(self.peer.command, port=port, model=model)
                if self.peer.command
                else befit_command(model, port, self.peer.words)
            )
            self.process = ServerProcess(self.name, command, port)
            try:
                self.ready.append(self.process.wait_ready())
            except BaseException:
                self.stop()
                raise
            url = f"http://127.0.0.1:{port}/v1"
        self.target = Target(url, chat=chat, keep_text=keep_text)
        self.target.model = find_model(self.target)

    def stop(self) -> None:
        """End what `start` started."""
        if self.process is not None:
            self.process.stop()
            self.process = None


def make_works(
    target: Target,
    *,
    clients: Sequence[int],
    prompt_tokens: int,
    output_tokens: int,
    prefill_tokens: int,
    rewrite: bool,
    seed: int,
) -> list[Work]:
    """Short prompts for so many clients; one long prompt; a file to rewrite. `target` is asked how long they are."""
    short = make_workload("random", target, Lengths(prompt=prompt_tokens, output=output_tokens), seed)
    speed = ("output tok/s", ("output_tok_s",))
    latency = (("TTFT p50 ms", ("ttft_ms", "p50")), ("TPOT p50 ms", ("tpot_ms", "p50")))
    works = [
        Work(
            f"{n} client{'s' if n > 1 else ''}",
            Load(concurrency=n, requests=6 if n == 1 else max(16, 2 * n)),
            short,
            (speed, *latency),
        )
        for n in clients
    ]
    if prefill_tokens:
        long = make_workload("random", target, Lengths(prompt=prefill_tokens, output=1), seed)
        numbers = (("prompt tok/s", ("prompt_tok_s",)),)
        works.append(Work(f"prefill {prefill_tokens}", Load(concurrency=1, requests=4), long, numbers))
    if rewrite:
        file = make_workload("rewrite", target, Lengths(), seed)
        works.append(Work("rewrite", Load(concurrency=1, requests=2), file, (speed, ("like", ("similarity",)))))
    return works


def compare(
    servers: Sequence[Server],
    make: Callable[[Target], list[Work]],
    *,
    model: str,
    rounds: int,
    alone: bool,
    chat: bool,
    report: Callable[[str], None],
) -> Iterator[dict[str, Any]]:
    """Every server's result for every work and round. All servers are up at once, or one at a time when `alone`.

    The first server is asked how long prompts are; all get the same texts.
    """
    works: list[Work] = []

    def up(server: Server, run: str) -> None:
        server.start(model, chat=chat, keep_text=True)
        assert server.target is not None
        if not works:
            works.extend(make(server.target))
        warm_up(server.target, works[0].workload, 1, name=f"warm-up {run}")

    def turn(server: Server, work: Work, number: int) -> dict[str, Any]:
        assert server.target is not None
        waiting = [(s, s.process.cpu_seconds()) for s in servers if s is not server and s.process is not None]
        result = measure(server.target, work.workload, work.load, name=f"round {number} {work.name}")
        for other, before in waiting:
            assert other.process is not None
            share = (other.process.cpu_seconds() - before) / max(result["duration_s"], 1e-9)
            other.idle_cpu = max(other.idle_cpu, share)
        prompt, ttft = result["prompt_tokens"], result["ttft_ms"]["p50"]
        result["prompt_tok_s"] = 1000 * prompt["mean"] / ttft if prompt and ttft else None
        told = ", ".join(f"{label} {_short(value_of(result, path))}" for label, path in work.numbers)
        report(f"round {number + 1}, {work.name}, {server.name}: {told}")
        return {"work": work.name, "server": server.name, "round": number, **result}

    with contextlib.ExitStack() as stack:
        for server in servers:
            stack.callback(server.stop)
        if not alone:
            for server in servers:
                up(server, "once")
        for number in range(rounds):
            begin = number % len(servers)
            order = [*servers[begin:], *servers[:begin]]
            if alone:
                for server in order if works else servers:
                    up(server, f"round {number}")
                    for work in works:
                        yield turn(server, work, number)
                    server.stop()
            else:
                for work in works:
                    for server in order:
                        yield turn(server, work, number)


def summary(
    runs: Sequence[dict[str, Any]], numbers: dict[str, Sequence[tuple[str, tuple[str, ...]]]], names: Sequence[str]
) -> list[dict[str, Any]]:
    """For each work and number: every server's median over the rounds, and befit / peer, the median within rounds.

    `names[0]` is what the others are compared with.
    """
    rows = []
    for work in dict.fromkeys(run["work"] for run in runs):
        for label, path in numbers[work]:
            own: dict[str, dict[int, float]] = {name: {} for name in names}
            for run in runs:
                value = value_of(run, path)
                if run["work"] == work and value is not None:
                    own[run["server"]][run["round"]] = value
            first = own[names[0]]
            rows.append(
                {
                    "work": work,
                    "number": label,
                    "values": {name: median(values.values()) if values else None for name, values in own.items()},
                    "ratios": {
                        name: median(pairs)
                        if (pairs := [first[r] / own[name][r] for r in first if own[name].get(r)])
                        else None
                        for name in names[1:]
                    },
                }
            )
    return rows


def rows_of(summaries: Sequence[dict[str, Any]], names: Sequence[str]) -> list[list[Any]]:
    """The summary as a table: a peer's number, then befit / peer."""
    titles = ["work", "", names[0]]
    for name in names[1:]:
        titles += [name, "ratio"]
    rows: list[list[Any]] = [titles]
    for one in summaries:
        row = [one["work"], one["number"], one["values"][names[0]]]
        for name in names[1:]:
            row += [one["values"][name], one["ratios"][name]]
        rows.append(row)
    return rows


def befit(model_options: str) -> Peer:
    """befit itself, with more options of `befit serve` in one text."""
    return Peer("befit", words=tuple(shlex.split(model_options)))


def value_of(run: dict[str, Any], path: Sequence[str]) -> float | None:
    """A number of a result by its path; None where there is none."""
    value: Any = run
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return None if value is None else float(value)


def _short(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
