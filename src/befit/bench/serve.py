"""Load on a server: a closed loop of clients that wait for their answers, or an open loop of arrivals that do not."""

from __future__ import annotations

import asyncio
import math
import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from befit.bench.arrivals import poisson
from befit.bench.client import send
from befit.bench.metrics import Record, summarise
from befit.bench.scrape import changes, counters, from_counters
from befit.bench.target import Prompt, Target
from befit.bench.workloads import Prompts, Workload
from befit.errors import BenchmarkFailed, ConfigError

Progress = Callable[[Record | None], None]
"""Called with None when a request is sent and with its record when it is over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """One level of load: `concurrency` clients (closed loop), or arrivals at `rate` a second (open loop).

    It ends after `requests` requests, or when `seconds` have passed: no new ones are sent then, and those under way
    are waited for.
    """

    concurrency: int | None = None
    rate: float | None = None
    requests: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        if (self.concurrency is None) == (self.rate is None):
            raise ConfigError("A load has either --concurrency or --rate.")
        if self.requests is None and self.seconds is None:
            raise ConfigError("A load needs an end: --requests or --duration.")
        if self.rate is not None and (not self.rate > 0 or (math.isinf(self.rate) and self.requests is None)):
            raise ConfigError(f"--rate is {self.rate:g}; it must be above 0, and an infinite one needs --requests.")

    @property
    def name(self) -> str:
        """For people and plots."""
        return f"{self.concurrency} clients" if self.concurrency is not None else f"{self.rate:g} requests/s"


@dataclass(slots=True)
class Run:
    """What one level of load gave."""

    load: Load
    records: list[Record] = field(default_factory=list)
    prompts: dict[int, Prompt] = field(default_factory=dict)
    cpu_seconds: float = 0.0


def default_requests(concurrency: int | None) -> int:
    """Enough for medians, and for the tail to be seen."""
    return 64 if concurrency is None else max(16, 4 * concurrency) if concurrency > 1 else 8


def run_load(
    target: Target, workload: Workload, load: Load, *, name: str, seed: int = 0, progress: Progress | None = None
) -> Run:
    """Put one level of load on the server. `name` tells runs apart: prompts of different runs differ."""
    import uvloop

    streams = load.concurrency or load.requests or 4096
    _allow_files(min(streams, load.requests or streams) + 64)
    prompts = workload.start(name, load.concurrency or 8)
    bodies = _Bodies(target, prompts, load.requests)
    run = Run(load)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        before = time.process_time()
        if load.concurrency is not None:
            runner.run(_closed(target, bodies, workload, load, load.concurrency, run, progress))
        else:
            runner.run(_open(target, bodies, load, seed, run, progress))
    run.cpu_seconds = time.process_time() - before
    run.prompts = bodies.made
    return run


def warm_up(target: Target, workload: Workload, requests: int, *, name: str = "warm-up") -> None:
    """Requests that are not counted. Raises BenchmarkFailed when one fails: nothing can be measured then."""
    if requests:
        run = run_load(target, workload, Load(concurrency=1, requests=requests), name=name)
        for record in run.records:
            if record.error:
                raise BenchmarkFailed(f"{target.url} fails the warm-up with {record.error}: {record.detail}")


def measure(
    target: Target,
    workload: Workload,
    load: Load,
    *,
    name: str,
    seed: int = 0,
    slo: dict[str, float] | None = None,
    cost_per_hour: float | None = None,
    raw: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """One level of load as a result: what `summarise` says, what the server's counters say, and the client's cost."""
    before = counters(target)
    run = run_load(target, workload, load, name=name, seed=seed, progress=progress)
    moved = changes(before, counters(target)) if before else {}
    result: dict[str, Any] = {"concurrency": load.concurrency, "rate": load.rate}
    result |= summarise(run.records, slo=slo, cost_per_hour=cost_per_hour)
    events = sum(len(record.tokens) for record in run.records)
    result["client_us_per_event"] = 1e6 * run.cpu_seconds / events if events else None
    result["client_cpu_share"] = run.cpu_seconds / result["duration_s"] if result["duration_s"] else None
    result["other_length"] = sum(
        record.prompt_tokens is not None and prompt.tokens not in (None, record.prompt_tokens)
        for record, prompt in _pairs(run)
    )
    if workload.distinct is not None:
        result["repeated_prompts"] = max(0, len(run.records) - workload.distinct)
    if workload.reference:
        likeness = [similarity(record.text, prompt.reference) for record, prompt in _pairs(run)]
        result["similarity"] = sum(likeness) / len(likeness) if likeness else None
    busy = result["duration_s"] if load.concurrency is not None else None
    result["from_server"] = from_counters(moved, busy)
    if result["cache_hit_rate"] is None:
        result["cache_hit_rate"] = result["from_server"].get("prefix_hit_rate")
    result["server_counters"] = moved
    if raw:
        result["per_request"] = [_raw(record) for record in run.records]
    return result


def similarity(text: str, reference: str) -> float:
    """The part of the reference's lines that the text has too, in order: 1 when all are there."""
    from difflib import SequenceMatcher

    lines = reference.splitlines()
    matcher = SequenceMatcher(None, lines, text.splitlines(), autojunk=False)
    return sum(block.size for block in matcher.get_matching_blocks()) / len(lines) if lines else 0.0


class _Bodies:
    """Requests ready to send, by number: made before the run where their count is known."""

    def __init__(self, target: Target, prompts: Prompts, requests: int | None) -> None:
        self.target = target
        self.prompts = prompts
        self.made: dict[int, Prompt] = {}
        self.ready = [self._make(i) for i in range(requests)] if requests is not None else None

    def _make(self, i: int) -> bytes:
        self.made[i] = self.prompts(i)
        return self.target.request(self.made[i])

    def __getitem__(self, i: int) -> tuple[bytes, int]:
        body = self.ready[i] if self.ready is not None else self._make(i)
        return body, self.made[i].max_tokens


async def _closed(
    target: Target, bodies: _Bodies, workload: Workload, load: Load, clients: int, run: Run, progress: Progress | None
) -> None:
    stop = time.perf_counter() + load.seconds if load.seconds is not None else math.inf
    shared = count()

    async def client(turns: Iterator[int]) -> None:
        for i in turns:
            if (load.requests is not None and i >= load.requests) or time.perf_counter() >= stop:
                return
            await _one(target, bodies, i, 0.0, run, progress)

    # Requests of a session follow each other, so each client keeps to its own; else whoever is free takes the next.
    await asyncio.gather(*(client(count(k, clients) if workload.by_session else shared) for k in range(clients)))


async def _open(target: Target, bodies: _Bodies, load: Load, seed: int, run: Run, progress: Progress | None) -> None:
    assert load.rate is not None
    begin = time.perf_counter()
    under_way = []
    for i, offset in enumerate(poisson(load.rate, seed)):
        if (load.requests is not None and i >= load.requests) or offset >= (load.seconds or math.inf):
            break
        delay = begin + offset - time.perf_counter()
        if delay > 0:
            await asyncio.sleep(delay)
        under_way.append(asyncio.create_task(_one(target, bodies, i, begin + offset, run, progress)))
    await asyncio.gather(*under_way)


async def _one(target: Target, bodies: _Bodies, i: int, due: float, run: Run, progress: Progress | None) -> None:
    body, asked = bodies[i]
    record = Record(asked=asked, due=due, number=i)
    if progress:
        progress(None)
    run.records.append(await send(target, body, record))
    if progress:
        progress(record)


def _pairs(run: Run) -> list[tuple[Record, Prompt]]:
    """The requests that went well, with their prompts."""
    return [(record, run.prompts[record.number]) for record in run.records if not record.error]


def _raw(record: Record) -> dict[str, Any]:
    return {
        "sent": record.sent,
        "prompt_tokens": record.prompt_tokens,
        "output_tokens": record.output_tokens,
        "cached_tokens": record.cached_tokens,
        "ttft_ms": 1000 * record.ttft if not record.error else None,
        "e2e_ms": 1000 * record.e2e if not record.error else None,
        "itl_ms": [round(1000 * gap, 3) for gap in record.itl()],
        "finish_reason": record.finish_reason,
        "error": record.error,
        "detail": record.detail,
    }


def _allow_files(needed: int) -> None:
    """Raise this process's limit of open files for as many connections. Raises ConfigError when it may not."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        if hard != resource.RLIM_INFINITY and hard < needed:
            raise ConfigError(f"{needed} connections are wanted and this process may open {hard} files; see ulimit -n.")
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
