"""The pool of threads: steps of any size, on more threads than there are cores, give the same bits."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from befit.backends.base import SamplerSpec
from befit.backends.native import _native
from support.steps import Seq, logits_of, make_batch
from support.tiny import tiny_model

TOKENS = [int(t) for t in np.random.default_rng(0).integers(0, 80, 500)]


def sizes(seed: int) -> list[int]:
    """Chunks that make up TOKENS: mostly single tokens, as decoding has them."""
    rng, out = np.random.default_rng(seed), []
    while sum(out) < len(TOKENS):
        out.append(int(min(rng.choice([1, 1, 1, 2, 17, 64]), len(TOKENS) - sum(out))))
    return out


@pytest.mark.parametrize("threads", [2, 7])
def test_many_steps_of_many_sizes(isa: str, load: Any, threads: int) -> None:
    model = tiny_model("llama", storage="q4_0")
    one, several = (logits_of(load(model, threads=n), TOKENS, chunks=sizes(n)) for n in (1, threads))
    assert np.array_equal(one, several)


def test_two_models_at_once(load: Any) -> None:
    """Each has its own threads, and a caller that has let go of the interpreter."""
    model = tiny_model("llama", storage="q8_0")
    expected = logits_of(load(model), TOKENS, chunks=[250, 250])
    found: dict[int, Any] = {}
    backends = [load(model, threads=2 + i) for i in range(2)]

    def work(i: int) -> None:
        found[i] = logits_of(backends[i], TOKENS, chunks=sizes(i))

    callers = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert all(np.array_equal(found[i], expected) for i in range(2))


def test_samplers_on_all_threads_draw_what_one_draws(load: Any) -> None:
    drawn: dict[int, list[list[list[int]]]] = {1: [], 5: []}
    for threads, steps in drawn.items():
        backend = load(tiny_model("llama"), threads=threads)
        seqs = [Seq([i]) for i in range(12)]
        samplers = [backend.new_sampler(SamplerSpec(temperature=1.0, seed=i), [i]) for i in range(12)]
        tokens = [[i] for i in range(12)]
        for _ in range(15):
            batch = make_batch(16, list(zip(seqs, tokens, strict=True)), rows="last", samplers=samplers)
            tokens = [[int(token)] for token in backend.step(batch).tokens]
            steps.append(tokens)
    assert drawn[1] == drawn[5]


def test_pools_that_live_for_one_job() -> None:
    raw = np.random.default_rng(1).integers(0, 256, 35 * 2 * 18, np.uint8)  # any bytes: some scales are no numbers
    expected = _native.pack(raw, 35, 64, "q4_0", 1)
    for threads in [1, 2, 3, 9] * 10:
        assert np.array_equal(_native.pack(raw, 35, 64, "q4_0", threads), expected)
