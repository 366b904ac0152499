#!/usr/bin/env python3
"""Does a server take as much memory as it says at its start?

    python benchmarks/memory.py MODEL [MODEL ...] [--only N] [--out FILE]

For each model and setting: what `befit serve` predicts, and the peak of its resident memory once its KV cache, its
batch and its embeddings have all been used (see befit/bench/memory.py). Exit code 1 when they differ by more than 5 %
and 100 MB.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from befit.bench.machine import machine
from befit.bench.memory import measure

SETTINGS = (
    {"ctx": 2048, "kv_tokens": 4096, "max_seqs": 4},
    {"ctx": 8192, "kv_tokens": 16384, "max_seqs": 16, "kv_dtype": "int8"},
    {"ctx": 4096, "memory": "900MB"},
)
SHARE, BYTES = 0.05, 100 * 10**6


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--only", type=int, metavar="N", help="the N-th setting alone, from 1")
    parser.add_argument("--out", type=Path, metavar="FILE")
    given = parser.parse_args()
    settings = SETTINGS if given.only is None else SETTINGS[given.only - 1 : given.only]
    about, runs, right = machine(), [], True
    for model in given.models:
        for setting in settings:
            run = {"model": Path(model).stem, **measure(model, setting)}
            runs.append(run)
            predicted, peak = run["predicted"]["together"], run["measured"]
            fits = abs(predicted - peak) <= max(SHARE * peak, BYTES)
            right = right and fits
            parts = ", ".join(f"{name} {size / 1e6:.0f}" for name, size in run["predicted"].items())
            print(f"{run['model']} {setting}\n  predicted: {parts} MB")
            print(f"  measured {peak / 1e6:.0f} MB (idle {run['idle'] / 1e6:.0f}): {run['error']:+.1%}", flush=True)
    if given.out is not None:
        given.out.write_text(json.dumps({"machine": about, "runs": runs}, indent=2) + "\n", encoding="utf-8")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
