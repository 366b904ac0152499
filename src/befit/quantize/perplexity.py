"""Perplexity: how surprised a model is by a text, exp(mean of -ln p(token | the tokens before it)); lower is better.

The text is read in windows of `WINDOW` tokens that do not overlap; the first token of a window is not scored. Values
are comparable between files with the same vocabulary, and between nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from typing import Literal

import numpy as np

from befit import backends
from befit.backends.base import OK, StepBatch
from befit.errors import NonFiniteLogits
from befit.models.program import Program
from befit.tokenizer.base import Tokenizer
from befit.weights.tensor import Tensor, Weight

WINDOW = 1024
CHUNK = 64
"""Tokens a step: the logits of all of them are kept, a row of the vocabulary each."""


def text(name: str) -> str:
    """A built-in text of code in several languages: "calibration", or "evaluation", which no calibration has seen."""
    return (files(__package__) / "texts" / f"{name}.txt").read_text(encoding="utf-8")


def windows(tokenizer: Tokenizer, content: str, longest: int) -> list[list[int]]:
    """The tokens of a text in windows of at most `longest`; a last one of a single token is left out."""
    ids = tokenizer.encode(content)
    cut = [ids[at : at + longest] for at in range(0, len(ids), longest)]
    return [window for window in cut if len(window) > 1]


def perplexity(
    program: Program,
    weights: Mapping[str, Weight],
    sequences: Sequence[Sequence[int]],
    *,
    threads: int,
    backend: Literal["native", "reference"] = "native",
    on_tokens: Callable[[int], None] = lambda done: None,
    release: Callable[[Tensor], None] = lambda tensor: None,
) -> float:
    """The perplexity of a model over windows of token ids.

    Raises NonFiniteLogits where the model computes NaN or infinity.
    """
    longest = max(map(len, sequences))
    pages = -(-longest // backends.BLOCK_SIZE)
    runner = backends.create(
        backend,
        program,
        {name: weights[name] for name in program.weight_names()},
        n_blocks=pages,
        threads=threads,
        max_tokens=CHUNK,
        max_rows=CHUNK,
        release=release,
    )
    surprise, scored = 0.0, 0
    try:
        for sequence in sequences:
            for start in range(0, len(sequence) - 1, CHUNK):
                targets = sequence[start + 1 : start + CHUNK + 1]
                result = runner.step(_batch(sequence, start, targets, pages))
                if (result.status != OK).any():
                    raise NonFiniteLogits("The model computes NaN or infinity; its weights are damaged.")
                surprise -= float(result.logprob.sum(dtype=np.float64))
                scored += len(targets)
                on_tokens(scored)
    finally:
        runner.close()
    return math.exp(surprise / scored)


def _batch(sequence: Sequence[int], start: int, targets: Sequence[int], pages: int) -> StepBatch:
    """A step over the tokens from `start`, each of which scores the one after it."""
    n = len(targets)
    return StepBatch(
        tokens=np.array(sequence[start : start + n], np.int32),
        positions=np.arange(start, start + n, dtype=np.int32),
        query_start=np.array([0, n], np.int32),
        context_len=np.array([start + n], np.int32),
        block_tables=np.arange(pages, dtype=np.int32)[None],
        rows=np.arange(n, dtype=np.int32),
        targets=np.array(targets, np.int32),
        samplers=[None] * n,
        logprobs=np.zeros(n, np.int32),
    )
