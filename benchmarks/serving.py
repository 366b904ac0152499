#!/usr/bin/env python3
"""Closed-loop load on OpenAI-compatible /v1/completions endpoints, side by side.

    python benchmarks/serving.py --server befit=http://127.0.0.1:8000/v1 --server llama.cpp=http://127.0.0.1:9101/v1 \\
        --concurrency 1,8,32 --requests 64 --prompt-words 100 --max-tokens 128 --rounds 3

Each of `concurrency` clients sends a request, waits for its whole answer, and sends the next, until `requests` are done
(with one client: 6 at most). In each round, at each concurrency, the servers take turns, so that what the machine does
besides hits all alike; who begins changes from round to round. Within a round every server gets the same prompts; no
prompt comes twice to a server, so its prefix cache does not help it, unless --shared-prefix asks for that. Answers are
greedy, streamed and of full length (temperature 0, ignore_eos); each request has its own connection.

Formulas, after those of vLLM's serving benchmark (whose older versions end TPOT at [DONE]):

    output tok/s   completion tokens that the servers' `usage` counts / (last answer's end − first request's send)
    TTFT           first event with a choice − send                         seconds, one a request
    TPOT           (last event with a choice − first) / (tokens − 1)        seconds, one a request of 2 tokens or more
    p50, p99       percentiles over the requests of one run, interpolated linearly

Failed requests count as errors and in nothing else. The table has the median over the rounds; a ratio is the median
over the rounds of server / baseline within the round. Exit code 1 when a request failed.
"""

import argparse
import asyncio
import json
import os
import platform
import random
import statistics
import sys
import time
from pathlib import Path

from completions import Answer, connect, exchange

CODE = """
def return self class import if else for while in range len list dict set tuple int str float bool None True False try
except raise with open read write append pop sort key value index item node left right head tail next queue stack graph
edge cost path file line name data result count total buffer offset size parse token print assert yield lambda async
= == != + - * / ( ) [ ] { } : , . -> # | & < >
"""
WORDS = CODE.split()
METRICS = {"tok_s": 1, "ttft_p50": 1000, "ttft_p99": 1000, "tpot_p50": 1000}  # and what seconds are shown times

NAN = float("nan")


def make_prompts(seed, count, words, shared):
    """`count` prompts of `words` words, of which all prompts made with the same `seed[0]` share the first `shared`."""
    common = random.Random(f"{seed[0]} shared").choices(WORDS, k=shared)
    own = random.Random(" ".join(map(str, seed)))
    return [
        " ".join([*common, f"x{own.getrandbits(32):08x}", *own.choices(WORDS, k=max(0, words - shared - 1))])
        for _ in range(count)
    ]


async def load(server, prompts, concurrency, max_tokens, timeout):
    """All prompts to one server, `concurrency` at a time."""
    fixed = {"model": server.model, "max_tokens": max_tokens, "temperature": 0, "ignore_eos": True}
    fixed |= {"stream": True, "stream_options": {"include_usage": True}}
    waiting = iter([json.dumps(fixed | {"prompt": prompt}).encode() for prompt in prompts])
    answers = []

    async def client():
        for body in waiting:
            sent = time.perf_counter()
            try:
                answers.append(await asyncio.wait_for(exchange(server, body, sent), timeout))
            except (OSError, EOFError, ValueError, LookupError, TimeoutError) as error:
                answers.append(Answer(sent, error=repr(error)))

    await asyncio.gather(*(client() for _ in range(concurrency)))
    return answers


def percentile(values, percent):
    """Linear between the two nearest, as NumPy's."""
    values = sorted(values)
    if not values:
        return NAN
    place = (len(values) - 1) * percent / 100
    low = int(place)
    return values[low] + (values[min(low + 1, len(values) - 1)] - values[low]) * (place - low)


def summarise(answers, asked):
    """The numbers of one run; times in seconds."""
    good = [x for x in answers if not x.error]
    wall = max((x.end for x in good), default=NAN) - min(x.sent for x in answers)
    return {
        "tok_s": sum(x.tokens for x in good) / wall,
        "ttft_p50": percentile([x.first - x.sent for x in good], 50),
        "ttft_p99": percentile([x.first - x.sent for x in good], 99),
        "tpot_p50": percentile([(x.last - x.first) / (x.tokens - 1) for x in good if x.tokens > 1], 50),
        "requests": len(answers),
        "errors": len(answers) - len(good),
        "short": sum(x.tokens < asked for x in good),
        "first_error": next((x.error for x in answers if x.error), ""),
    }


def machine():
    info = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    model = next((line.split(":", 1)[1].strip() for line in info.splitlines() if line.startswith("model name")), "?")
    return {
        "cpu": model, "cores": len(os.sched_getaffinity(0)), "load": os.getloadavg()[0],
        "python": platform.python_version(),
    }  # fmt: skip


def print_table(runs, servers, levels, baseline):
    """runs[level, server name] is the list of its summaries, one a round."""
    width = max(len(s.name) for s in servers)
    titles = [("tok/s", 9), ("TTFT p50 ms", 12), ("TTFT p99 ms", 12), ("TPOT p50 ms", 12)]
    ratio_title = f" {'ratio':>6}" if baseline else ""
    print(f"{'clients':>7}  {'server':{width}}" + "".join(f" {t:>{w}}{ratio_title}" for t, w in titles) + "  errors")
    for level in levels:
        for server in servers:
            rounds, line = runs[level, server.name], f"{level:7}  {server.name:{width}}"
            for (metric, scale), (_, w) in zip(METRICS.items(), titles, strict=True):
                line += f" {statistics.median(r[metric] for r in rounds) * scale:{w}.1f}"
                if baseline:
                    pairs = zip(rounds, runs[level, baseline], strict=True)
                    line += f" {statistics.median(r[metric] / (b[metric] or NAN) for r, b in pairs):6.2f}"
            print(f"{line}  {sum(r['errors'] for r in rounds)} of {sum(r['requests'] for r in rounds)}")
    if baseline:
        print(f"ratio: to {baseline}; of tok/s more is better, of times less.")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--server", action="append", required=True, metavar="NAME=URL", help="may be given many times")
    p.add_argument("--concurrency", default="1,8,32", metavar="N,N,…")
    p.add_argument("--requests", type=int, default=64)
    p.add_argument("--prompt-words", type=int, default=100)
    p.add_argument("--shared-prefix", type=int, default=0, metavar="N", help="words that all prompts begin with")
    p.add_argument("--max-tokens", type=int, default=128)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--baseline", help="a server's name [default: the second server]")
    p.add_argument("--seed", type=int, default=time.time_ns() // 1_000_000, help="of the prompts [default: the time]")
    p.add_argument("--timeout", type=float, default=600, help="seconds a request")
    p.add_argument("--json", type=Path, metavar="FILE", help="write every round's numbers there")
    a = p.parse_args()
    levels = [int(n) for n in a.concurrency.split(",")]
    if min(*levels, a.requests, a.rounds, a.max_tokens, a.prompt_words) < 1:
        p.error("concurrency, requests, rounds, tokens and words must be at least 1")
    host = machine()
    servers = [connect(text) for text in a.server]
    names = [s.name for s in servers]
    baseline = a.baseline or (names[1] if len(names) > 1 else None)
    if len({*names}) < len(names) or (baseline and baseline not in names):
        p.error(f"servers need different names, and the baseline one of them: {names}, baseline {baseline}")
    print(f"{host['cpu']}, {host['cores']} cores, load {host['load']:.2f}, Python {host['python']}; seed {a.seed}")
    print("; ".join(f"{s.name}: {s.model}" for s in servers), flush=True)
    if host["load"] > 0.5:
        print(f"Warning: the load average at the start is {host['load']:.2f}: something else runs here.", flush=True)

    runs = {(level, name): [] for level in levels for name in names}
    for server in servers:  # the first request of a process may pay for what later ones do not
        asyncio.run(load(server, make_prompts((a.seed, "warm-up"), 1, a.prompt_words, 0), 1, 8, a.timeout))
    for turn in range(a.rounds):
        begin = turn % len(servers)
        for place, level in enumerate(levels):
            count = min(a.requests, 6) if level == 1 else a.requests
            prompts = make_prompts((a.seed, turn, place), count, a.prompt_words, a.shared_prefix)
            for server in servers[begin:] + servers[:begin]:
                run = summarise(asyncio.run(load(server, prompts, level, a.max_tokens, a.timeout)), a.max_tokens)
                runs[level, server.name].append(run)
                numbers = " ".join(f"{metric} {run[metric] * scale:.1f}" for metric, scale in METRICS.items())
                print(f"round {turn + 1}, {level} clients, {server.name}: {numbers}", file=sys.stderr, flush=True)
    print_table(runs, servers, levels, baseline)

    for (level, name), rounds in runs.items():
        if short := sum(r["short"] for r in rounds):
            print(f"Warning: {name}, {level} clients: {short} answers have fewer than {a.max_tokens} tokens.")
        if error := next((r["first_error"] for r in rounds if r["errors"]), ""):
            print(f"Warning: {name}, {level} clients: first error: {error}")
    if a.json:
        settings = {k: v for k, v in vars(a).items() if k != "json"} | {"baseline": baseline}
        # A run without the metric (nan) has null in JSON.
        clean = {k: [{m: None if v != v else v for m, v in r.items()} for r in rounds] for k, rounds in runs.items()}
        results = [{"clients": level, "server": name, "rounds": rounds} for (level, name), rounds in clean.items()]
        report = {"machine": host, "settings": settings, "models": {s.name: s.model for s in servers}}
        a.json.write_text(json.dumps(report | {"results": results}, indent=1) + "\n", encoding="utf-8")
    return 1 if any(r["errors"] for rounds in runs.values() for r in rounds) else 0


if __name__ == "__main__":
    sys.exit(main())
