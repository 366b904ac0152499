"""Results as JSON files and as tables in a terminal."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from befit import disk
from befit.errors import ConfigError

KINDS = ("serve", "throughput", "latency", "kernels", "startup", "peers")


def make_result(
    kind: str, machine: dict[str, Any], settings: dict[str, Any], runs: list[dict[str, Any]]
) -> dict[str, Any]:
    """What every benchmark writes: its kind, where and how it was measured, and a list of runs."""
    return {"benchmark": kind, "machine": machine, "settings": settings, "runs": runs}


def write_json(path: Path, result: dict[str, Any]) -> None:
    """Write a result. Numbers that are none (NaN, infinity) become null, so that any JSON reader takes the file."""
    disk.write_whole(path, json.dumps(_finite(result), indent=1, default=str) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a result. Raises ConfigError when the file is not one."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        if result["benchmark"] not in KINDS or not isinstance(result["runs"], list):
            raise ValueError(f"its benchmark is {result['benchmark']!r}")
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ConfigError(f"{path} is not a result of befit bench: {error}.") from None
    assert isinstance(result, dict)
    return result


def table(rows: Sequence[Sequence[Any]]) -> str:
    """Aligned columns under the first row's titles: texts to the left, numbers to the right."""
    cells = [[_cell(value) for value in row] for row in rows]
    numeric = [all(_is_number(row[i]) for row in rows[1:]) for i in range(len(rows[0]))]
    widths = [max(len(row[i]) for row in cells) for i in range(len(rows[0]))]
    lines = (
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        )
        for row in cells
    )
    return "\n".join(line.rstrip() for line in lines)


def serve_table(runs: Sequence[dict[str, Any]]) -> str:
    """One line a level of load."""
    by_rate = any(run["rate"] is not None for run in runs)
    rows: list[list[Any]] = [
        [
            *("rate/s" if by_rate else "clients", "ok", "errors", "req/s", "out tok/s", "total tok/s"),
            *("TTFT p50", "p99", "TPOT p50", "p99", "ITL p50", "p99", "E2E p50", "p99 ms"),
        ]
    ]
    for run in runs:
        row = [run["rate"] if by_rate else run["concurrency"], run["completed"], run["requests"] - run["completed"]]
        row += [run["requests_per_s"], run["output_tok_s"], run["total_tok_s"]]
        for metric in ("ttft_ms", "tpot_ms", "itl_ms", "e2e_ms"):
            row += [run[metric]["p50"], run[metric]["p99"]]
        rows.append(row)
    return table(rows)


def serve_notes(run: dict[str, Any]) -> list[str]:
    """What a level's numbers do not show by themselves: lengths, errors, caches, cost, the client."""
    notes = []
    if prompt := run["prompt_tokens"]:
        output = run["output_tokens"]
        notes.append(
            f"prompt tokens {_span(prompt)}, output tokens {_span(output)}"
            + (f", prefix cache hits {run['cache_hit_rate']:.1%}" if run["cache_hit_rate"] is not None else "")
        )
    if goodput := run.get("goodput"):
        limits = ", ".join(f"{name} {limit:g} ms" for name, limit in goodput["slo_ms"].items())
        notes.append(
            f"goodput within {limits}: {_cell(goodput['requests_per_s'])} req/s, {goodput['share'] or 0:.1%} of all"
        )
    if "cost_per_million_output_tokens" in run:
        notes.append(f"cost of a million output tokens: {_cell(run['cost_per_million_output_tokens'])}")
    if run.get("similarity") is not None:
        notes.append(f"lines of the expected file in the output: {run['similarity']:.0%}")
    server = run.get("from_server", {})
    if "acceptance_rate" in server:
        notes.append(f"drafted tokens accepted: {server['acceptance_rate']:.1%}")
    if "server_cpu_us" in server:
        notes.append(f"the server's own CPU time: {server['server_cpu_us']:.0f} µs an output token")
    if "outside_steps_us" in server:
        notes.append(f"server time outside its steps: {server['outside_steps_us']:.0f} µs an output token")
    if run.get("client_us_per_event") is not None:
        share = run["client_cpu_share"]
        notes.append(f"the client took {run['client_us_per_event']:.0f} µs of CPU an event, {share:.1%} of a core")
    if (late := run.get("late_ms")) and late["p99"] is not None and late["p99"] > 10:
        notes.append(f"Warning: the client sent late: p99 {late['p99']:.0f} ms; the load was not what was asked for.")
    for number, text in (
        (run["short"], "answers are shorter than asked for"),
        (run["uncounted"], "answers have no usage: their tokens are counted as events of the stream"),
        (run.get("other_length", 0), "prompts have another length than asked for, as the server counts"),
        (run.get("repeated_prompts", 0), "requests repeat a prompt: the file has no more"),
    ):
        if number:
            notes.append(f"Warning: {number} {text}.")
    for kind, number in run["errors"].items():
        notes.append(f"Error: {number} of {run['requests']} requests: {kind}: {run['error_examples'][kind][:200]}")
    return notes


def _span(counts: dict[str, float]) -> str:
    if counts["min"] == counts["max"]:
        return f"{counts['min']}"
    return f"{counts['mean']:.0f} ({counts['min']} to {counts['max']})"


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
    return str(value)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
