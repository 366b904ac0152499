"""The perplexity of a model on a text, by either backend: what a kernel's rounding costs, in one number."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from befit import models, store, tokenizer
from befit.errors import ConfigError
from befit.prepared.read import open_build
from befit.quantize import perplexity as arithmetic
from befit.weights.checkpoint import open_checkpoint


@dataclass(frozen=True, slots=True)
class Found:
    """A perplexity and the tokens that it is over; the first token of each window is not scored."""

    perplexity: float
    tokens: int
    scored: int
    windows: int


def measure(
    model: Path,
    text: str,
    *,
    backend: Literal["native", "reference"],
    threads: int,
    window: int = arithmetic.WINDOW,
    on_tokens: Callable[[int, int], None] = lambda done, total: None,
) -> Found:
    """The perplexity of the model at `model`, a GGUF file or a folder, on a text. on_tokens(done, total).

    Raises ConfigError for a text of less than two tokens, and the errors of opening a model.
    """
    if store.is_build(str(model)):
        with_build = open_build(model)
        metadata, program, weights = with_build.metadata, with_build.program, with_build.weights
        release, close = (lambda tensor: None), with_build.close
    else:
        file = open_checkpoint(model)
        metadata, release, close = file.metadata, file.release, file.close
        program = models.describe(metadata, file.shapes, lambda key: file.tensors[key].dequantize())
        weights = {name: file.tensors[name] for name in program.weight_names()}
    try:
        longest = min(window, program.max_context)
        cut = arithmetic.windows(tokenizer.load(metadata), text, longest)
        if not cut:
            raise ConfigError("The text has less than two tokens; there is nothing to predict.")
        scored = sum(len(one) - 1 for one in cut)
        found = arithmetic.perplexity(
            program,
            weights,
            cut,
            threads=threads,
            backend=backend,
            on_tokens=lambda done: on_tokens(done, scored),
            release=release,
        )
    finally:
        close()
    return Found(found, sum(map(len, cut)), scored, len(cut))
