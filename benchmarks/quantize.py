#!/usr/bin/env python3
"""What quantising costs a model, beside other programs' files of the same model.

    python benchmarks/quantize.py dense QUANTISED.gguf DENSE.gguf
    python benchmarks/quantize.py measure DENSE.gguf -o OUT.json [--targets w8 w4/q4_1 w4-awq/q4_1 ...]
                                  [--beside LABEL=FILE ...] [--text FILE ...] [--tokens 6000]

`measure` runs `befit quantize` for each target (with the block format after a slash) and notes seconds and peak memory
of that process, then the perplexity of the file on the built-in evaluation text and on the texts given, all by befit's
native backend. Rows are added to OUT.json, so that a long measurement can be done in parts.

`dense` is for where no original weights are at hand: it writes the 16-bit file of a quantised one. Rounding that to the
grid it came from would cost nothing and mean nothing, so every input channel that can be scaled is scaled by a random
factor between 2^-1/2 and 2^1/2, undone in what feeds it (`befit.quantize.folding`): the same function off the grid.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from befit import models, tokenizer
from befit.bench.machine import machine
from befit.plan.hardware import physical_cores
from befit.quantize import awq, perplexity
from befit.quantize.folding import inputs
from befit.quantize.gguf_write import write_gguf
from befit.quantize.recipe import Quantised
from befit.weights.checkpoint import open_checkpoint


def described(file):
    return models.describe(file.metadata, file.shapes, lambda key: file.tensors[key].dequantize())


def dense(source, target):
    """Write the 16-bit file, off the grid."""
    rng = np.random.default_rng(0)
    with open_checkpoint(source) as file:
        scales = awq.Scales()
        for each in inputs(described(file), file.tensors):
            if each.foldable:
                factors = np.exp2(rng.uniform(-0.5, 0.5, file.shapes[each.weights[0]][1])).astype(np.float32)
                s = awq.shared(factors, each)
                scales.columns |= dict.fromkeys(each.weights, s)
                scales.rows |= dict.fromkeys((*each.vectors, *each.matrices), awq.unshared(s, each))
        write_gguf(target, {**file.metadata, "general.file_type": 1}, Quantised(file.tensors, {}, scales))


def quantised(source, target, to, blocks):
    """Seconds and peak resident bytes of a `befit quantize`."""
    command = [sys.executable, "-m", "befit.cli", "quantize", str(source), str(target), "--to", to, "--blocks", blocks]
    start, peak = time.monotonic(), 0
    process = subprocess.Popen([*command, "--no-perplexity"])
    while process.poll() is None:  # the kernel's own ru_maxrss of a child counts its parent's memory, too
        status = Path(f"/proc/{process.pid}/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        peak = max(peak, 1024 * int(found[1])) if found else peak
        time.sleep(0.05)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    return round(time.monotonic() - start, 1), peak


def surprise(path, texts, most):
    """Perplexity by text, and bytes of the tensors."""
    with open_checkpoint(path) as file:
        program, tokens = described(file), tokenizer.load(file.metadata)
        found = {}
        for name, text in texts.items():
            part = text if name == "built-in" else tokens.decode(tokens.encode(text)[:most])
            windows = perplexity.windows(tokens, part, perplexity.WINDOW)
            value = perplexity.perplexity(
                program, file.tensors, windows, threads=physical_cores(), release=file.release
            )
            found[name] = {"perplexity": round(value, 4), "tokens": sum(len(window) - 1 for window in windows)}
        return found, sum(size for _, size in file.types)


def measure(args):
    out = args.output
    result = json.loads(out.read_text()) if out.exists() else {"source": args.source.name, "rows": {}}
    result["machine"] = machine()
    texts = {"built-in": perplexity.text("evaluation")}
    if args.text:
        texts["other"] = "\n\n".join(path.read_text() for path in args.text)
        result["other_text"] = [path.name for path in args.text]

    def row(label, path, **facts):
        found, size = surprise(path, texts, args.tokens)
        result["rows"][label] = {"bytes": size, **facts, **found}
        out.write_text(json.dumps(result, indent=1) + "\n")
        print(label, json.dumps(result["rows"][label]), flush=True)

    if "source" not in result["rows"]:
        row("source", args.source)
    for target in args.targets:
        to, _, blocks = target.partition("/")
        with tempfile.TemporaryDirectory(dir=args.scratch) as folder:
            path = Path(folder) / "q.gguf"
            seconds, peak = quantised(args.source, path, to, blocks or "auto")
            row(target, path, seconds=seconds, peak_rss=peak)
    for pair in args.beside:
        label, _, path = pair.partition("=")
        row(label, Path(path))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    verb = verbs.add_parser("dense")
    verb.add_argument("source", type=Path)
    verb.add_argument("target", type=Path)
    verb.set_defaults(run=lambda args: dense(args.source, args.target))
    verb = verbs.add_parser("measure")
    verb.add_argument("source", type=Path)
    verb.add_argument("-o", "--output", type=Path, required=True)
    verb.add_argument("--targets", nargs="*", default=[])
    verb.add_argument("--beside", nargs="*", default=[])
    verb.add_argument("--text", nargs="*", type=Path, default=[])
    verb.add_argument("--tokens", type=int, default=6000)
    verb.add_argument("--scratch", type=Path)
    verb.set_defaults(run=measure)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
