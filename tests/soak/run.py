"""A long soak: python tests/soak/run.py [--minutes 60] [--model MODEL] [--clients 48] [--json FILE] [-- SERVE OPTIONS]

Starts a `befit serve` with little room for keys and values, for which requests wait, puts mixed load on it and
compares every answer with the one that the request gets alone. Exit status 1 when an answer was wrong, a request failed
or a page or request is left over.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from asks import NAME, make_asks
from load import Result, Soak

from befit.bench.processes import ServerProcess, befit_command, ending_on_sigterm, free_port

TIGHT = ("--ctx", "512", "--max-seqs", "24", "--kv-tokens", "3072", "--no-access-log", "--served-name", NAME)


def soak(
    model: str, seconds: float, *, clients: int, asks: int, seed: int, longest: int, options: Sequence[str] = ()
) -> Result:
    """Serve the model with little memory, and load on it."""
    port = free_port()
    command = befit_command(model, port, [*TIGHT, *options])
    with ending_on_sigterm(), ServerProcess("befit", command, port) as server:
        server.wait_ready()
        load = Soak(f"http://127.0.0.1:{port}", make_asks(asks, seed, longest), clients=clients, seed=seed)
        result = asyncio.run(load.run(seconds, lambda: server.memory()[0]))
        if server.status is not None:
            result.errors.append(f"the server ended with {server.status}: {server.last_words()}")
    return result


def summary(result: Result) -> dict[str, Any]:
    """The figures of a run."""
    counters = ("preemptions_total", "spec_decode_num_accepted_tokens_total", "generation_tokens_total")
    return {
        "seconds": round(result.seconds, 1),
        "answers": sum(result.done.values()),
        "by_kind": dict(result.done),
        "left_early": result.left_early,
        "wrong": len(result.wrong),
        "errors": len(result.errors),
        "examples": [*result.wrong[:3], *result.errors[:3]],
        "left_over": result.left_over,
        "rss_drift": round(result.drift(), 4),
        "rss_bytes": result.memory[-1][1] if result.memory else 0,
        "windows": result.windows(),
        "server": {name: result.counters[name] for name in counters if name in result.counters},
    }


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--model", default="smollm2:135m")
    parser.add_argument("--clients", type=int, default=48)
    parser.add_argument("--asks", type=int, default=80, help="different requests")
    parser.add_argument("--longest", type=int, default=160, help="words of a prompt, at most")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("options", nargs="*", help="more options of befit serve, behind --")
    given = parser.parse_args()
    result = soak(
        given.model,
        given.minutes * 60,
        clients=given.clients,
        asks=given.asks,
        seed=given.seed,
        longest=given.longest,
        options=given.options,
    )
    figures = summary(result)
    print(json.dumps(figures, indent=1))
    if given.json is not None:
        given.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return 1 if result.wrong or result.errors or result.left_over else 0


if __name__ == "__main__":
    sys.exit(main())
