#!/usr/bin/env python3
"""How closely the native backend follows the float32 reference on a real model.

    python benchmarks/agreement.py MODEL [--text FILE] [--tokens 512] [--prompts 20] [--continue 32]

Prints the mean absolute difference of the log-probabilities of all tokens over a code text, the difference on the
text's own tokens, and how many greedy continuations agree for at least so many tokens. Exit code 1 when the mean is
0.05 or more, or fewer than nine tenths of the continuations agree.
"""

import argparse
import inspect
import json
import sys
import textwrap
from pathlib import Path

import numpy as np

from befit import backends, store
from befit.backends.base import SamplerSpec, StepBatch
from befit.models import describe
from befit.tokenizer import load as load_tokenizer
from befit.weights.gguf import GGUFFile

PROMPTS = [
    "def fibonacci(n):\n",
    "class LinkedList:\n    def __init__(self):\n",
    "import os\nimport sys\n\ndef main():\n",
    "def is_prime(n: int) -> bool:\n",
    "# Read a CSV file and print the sum of the second column\n",
    "The capital of France is",
    "SELECT name, COUNT(*) FROM users",
    "function debounce(fn, delay) {\n",
    "def quicksort(items):\n    if len(items) <= 1:\n        return items\n",
    "fn main() {\n    let mut total = 0;\n",
    'package main\n\nimport "fmt"\n\nfunc main() {\n',
    "from dataclasses import dataclass\n\n@dataclass\nclass Point:\n",
    "try:\n    with open(path) as f:\n        data = json.load(f)\nexcept",
    "def test_addition():\n    assert",
    "<!DOCTYPE html>\n<html>\n<head>\n",
    "for i in range(10):\n    print(",
    "A binary search tree is a data structure in which",
    "def merge(a: list[int], b: list[int]) -> list[int]:\n    result = []\n",
    "#include <stdio.h>\n\nint main(void) {\n",
    "To reverse a string in Python, you can",
]


class Runner:
    """One sequence on one backend."""

    def __init__(self, backend):
        self.backend = backend

    def batch(self, tokens, start, rows, sampler=None):
        def ints(x):
            return np.ascontiguousarray(x, dtype=np.int32)

        n, pages = len(tokens), (start + len(tokens) + 15) // 16
        return StepBatch(
            ints(tokens), ints(np.arange(start, start + n)), ints([0, n]), ints([start + n]),
            ints(np.arange(pages))[None, :].copy(), ints(rows), ints([-1 if sampler else 0] * len(rows)),
            [sampler] * len(rows), ints([-1] * len(rows)),
        )  # fmt: skip

    def logits(self, tokens):
        return self.backend.logits(self.batch(tokens, 0, range(len(tokens))))

    def greedy(self, tokens, n):
        sampler, out, new, start = self.backend.new_sampler(SamplerSpec(), list(tokens)), [], list(tokens), 0
        for _ in range(n):
            result = self.backend.step(self.batch(new, start, [len(new) - 1], sampler))
            start += len(new)
            new = [int(result.tokens[0])]
            out += new
        return out


def log_softmax(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x.astype(np.float64)).sum(-1, keepdims=True))


def main():
    p = argparse.ArgumentParser()
    p.add_argument("model")
    p.add_argument("--text")
    p.add_argument("--tokens", type=int, default=512)
    p.add_argument("--prompts", type=int, default=20)
    p.add_argument("--continue", dest="length", type=int, default=32)
    p.add_argument("--threads", type=int, default=2)
    a = p.parse_args()
    text = Path(a.text).read_text() if a.text else inspect.getsource(textwrap)
    file = GGUFFile.open(store.resolve(a.model))
    tokenizer = load_tokenizer(file.metadata)
    program = describe(file.metadata, file.shapes, lambda name: file.tensors[name].dequantize())
    sizes = {"n_blocks": a.tokens // 16 + 8, "threads": a.threads, "max_tokens": a.tokens, "max_rows": a.tokens}
    native, reference = (Runner(backends.create(n, program, file.tensors, **sizes)) for n in ("native", "reference"))

    ids = tokenizer.encode(text)[: a.tokens]
    ours, exact = log_softmax(native.logits(ids)), log_softmax(reference.logits(ids))
    likely = exact > np.log(1e-4)
    own = np.arange(len(ids) - 1), ids[1:]
    agree, first = 0, []
    for prompt in PROMPTS[: a.prompts]:
        prompt_ids = tokenizer.encode(prompt)
        x, y = native.greedy(prompt_ids, a.length), reference.greedy(prompt_ids, a.length)
        same = next((i for i in range(a.length) if x[i] != y[i]), a.length)
        agree += same == a.length
        first.append(same)
    report = {
        "model": file.path.name, "isa": native.backend.isa, "tokens": len(ids),
        "mean_abs_logprob_diff": float(np.abs(ours - exact).mean()),
        "mean_abs_logprob_diff_likely": float(np.abs(ours - exact)[likely].mean()),
        "mean_abs_logprob_diff_own_tokens": float(np.abs(ours - exact)[own].mean()),
        "perplexity": [float(np.exp(-x[own].mean())) for x in (ours, exact)],
        "same_top_token": float((ours.argmax(-1) == exact.argmax(-1)).mean()),
        "greedy_agree": f"{agree} of {a.prompts} for {a.length} tokens", "first_difference": first,
    }  # fmt: skip
    print(json.dumps(report, indent=1))
    return 1 if report["mean_abs_logprob_diff"] >= 0.05 or agree < 0.9 * a.prompts else 0


if __name__ == "__main__":
    sys.exit(main())
