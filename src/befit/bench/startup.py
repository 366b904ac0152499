"""How fast `befit serve` starts and ends, and the memory it has when it is ready. Every round is a new process.

ready        start of the process → first 200 of /health, asked every 5 ms         seconds
ttft         send of the first completion → its first event with output            seconds
first_token  start of the process → that event                                     seconds
exit         SIGTERM → the process has ended                                       seconds
resident     VmRSS when ready; mapped pages of the file count too                  bytes
peak         VmHWM when ready: the most that loading took                          bytes
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from statistics import median
from typing import Any

from befit.bench.client import send
from befit.bench.metrics import Record
from befit.bench.processes import ServerProcess, befit_command, free_port
from befit.bench.target import Prompt, Target
from befit.errors import BenchmarkFailed

PROMPT = Prompt("def fibonacci(n):\n", 8)
TIMES = ("ready", "ttft", "first_token", "exit")
BYTES = ("resident", "peak")


def start_once(model: str, options: Sequence[str] = ()) -> dict[str, float]:
    """One start, first answer and end. Raises BenchmarkFailed when one of them fails."""
    port = free_port()
    with ServerProcess("befit serve", befit_command(model, port, options), port) as server:
        ready = server.wait_ready()
        resident, peak = server.memory()
        target = Target(f"http://127.0.0.1:{port}/v1")
        record = asyncio.run(send(target, target.request(PROMPT), Record(asked=PROMPT.max_tokens)))
        if record.error:
            raise BenchmarkFailed(f"The first completion failed with {record.error}: {record.detail}")
        first = record.sent + record.ttft - server.started
        ended = server.stop()
        if server.status != 0:
            raise BenchmarkFailed(f"befit serve ended with status {server.status} after SIGTERM.")
    return {
        "ready": ready,
        "ttft": record.ttft,
        "first_token": first,
        "exit": ended,
        "resident": resident,
        "peak": peak,
    }


def summary(rounds: Sequence[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Smallest, median and largest of each number."""
    return {
        name: {"min": min(values), "median": median(values), "max": max(values)}
        for name in (*TIMES, *BYTES)
        if (values := [one[name] for one in rounds])
    }


def memory_bound(file_bytes: int) -> int:
    """What a server may have when it is ready: 1.4 times the file, no KV in use yet, and 150 MB."""
    return int(file_bytes * 1.4) + 150_000_000


def rows(numbers: dict[str, dict[str, Any]]) -> list[list[Any]]:
    """A table of a summary."""
    out: list[list[Any]] = [["", "min", "median", "max"]]
    for name in TIMES:
        out.append([f"{name} s", *(round(value, 3) for value in numbers[name].values())])
    for name in BYTES:
        out.append([f"{name} MB", *(value / 1e6 for value in numbers[name].values())])
    return out
