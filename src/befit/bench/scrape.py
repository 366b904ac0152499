"""A server's own counters, from its Prometheus page: how they change over a run."""

from __future__ import annotations

import http.client
import re
from typing import Any

from befit.bench.target import Target

_SAMPLE = re.compile(r"^([a-zA-Z_:][\w:]*)(?:\{.*\})? (\S+)", re.MULTILINE)
_COUNTED = re.compile(r"_(total|sum|count)$")


def counters(target: Target) -> dict[str, float]:
    """Counters, sums and counts of the server's /metrics, labels added up; nothing when it has no such page."""
    try:
        status, raw = target.call("GET", "/metrics")
    except (OSError, http.client.HTTPException):
        return {}
    found: dict[str, float] = {}
    for name, value in _SAMPLE.findall(raw.decode("utf-8", "replace")) if status == 200 else ():
        if _COUNTED.search(name):
            try:
                found[name] = found.get(name, 0.0) + float(value)
            except ValueError:
                continue
    return found


def changes(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """What moved."""
    return {name: value - before.get(name, 0.0) for name, value in after.items() if value != before.get(name, 0.0)}


def from_counters(moved: dict[str, float], busy: float | None) -> dict[str, Any]:
    """Numbers that only the server's counters tell; each is left out where they do not.

    prefix_hit_rate: prompt tokens found in the prefix cache, of those looked up (befit, vLLM). acceptance_rate: drafted
    tokens that were right (befit, vLLM). outside_steps_us: of the `busy` seconds in which the server always had work,
    those that no step of befit's backend covers, an output token: scheduling, texts, HTTP and, on the same cores, the
    client. server_cpu_us: the CPU time of befit's event loop and of its engine outside those steps, an output token.
    """
    told: dict[str, Any] = {}
    for prefix, hits, queries in (
        ("befit", "prefix_cache_hits_tokens", "prefix_cache_queries_tokens"),
        ("vllm", "prefix_cache_hits", "prefix_cache_queries"),
    ):
        if asked := moved.get(f"{prefix}:{queries}_total"):
            told["prefix_hit_rate"] = moved.get(f"{prefix}:{hits}_total", 0.0) / asked
        if drafted := moved.get(f"{prefix}:spec_decode_num_draft_tokens_total"):
            told["acceptance_rate"] = moved.get(f"{prefix}:spec_decode_num_accepted_tokens_total", 0.0) / drafted
    if tokens := moved.get("befit:generation_tokens_total"):
        if cpu := moved.get("befit:server_cpu_seconds_total"):
            told["server_cpu_us"] = 1e6 * cpu / tokens
        if (steps := moved.get("befit:step_seconds_sum")) and busy is not None:
            told["outside_steps_us"] = 1e6 * (busy - steps) / tokens
    return told
