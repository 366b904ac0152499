"""Ends that only llama.cpp's protocol has: too little indentation, too much time, a model that is not sure."""

from __future__ import annotations

import time
from collections.abc import Callable
from math import exp

from befit.engine.outputs import TokenLogprob
from befit.tokenizer.base import Tokenizer

CANDIDATES = 20
_LIKELY = 0.2


class Limits:
    """Watches one output. `push` takes its text piece by piece; once it returns `over` the output has ended.

    n_indent       ends before the first character of a line that is indented by fewer spaces and tabs
    max_seconds    ends after the first line break beyond this time, counted from the first token; a line is always
                   finished
    """

    def __init__(
        self,
        n_indent: int | None = None,
        max_seconds: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._n_indent = n_indent or 0
        self._max_seconds = max_seconds or 0.0
        self._clock = clock
        self._began: float | None = None
        self._indent: int | None = None  # of the line so far, None in the first line and beyond the indentation
        self._lines = False

    def push(self, text: str) -> tuple[str, bool]:
        """(what of the text belongs to the output, whether it is over)."""
        if self._began is None:
            self._began = self._clock()
        if self._n_indent:
            for at, character in enumerate(text):
                if self._indent is not None:
                    if character in " \t":
                        self._indent += 1
                        continue
                    if self._indent < self._n_indent:
                        return text[:at], True
                    self._indent = None
                if character == "\n":
                    self._indent = 0
        if "\n" in text and self._max_seconds and self._clock() - self._began > self._max_seconds:
            return text[: text.rindex("\n") + 1], True
        return text, False


def unsure(entry: TokenLogprob, tokenizer: Tokenizer) -> bool:
    """Whether llama.cpp's `infill` sampler would end here: since an end is likely, or since no text is.

    entry: the likeliest tokens at this position. The rule is that of src/llama-sampling.cpp: the text ends when three
    times the probability of all ends, times the number of candidates, is more than that of the others; and when none
    of the others has 0.2, each counted together with the candidates that begin with it or that it begins with.
    """
    ends = sum(exp(logprob) for token, logprob in entry.top if token in tokenizer.eos_ids)
    texts = [(tokenizer.token_bytes(token), exp(logprob)) for token, logprob in entry.top]
    texts = [one for one, (token, _) in zip(texts, entry.top, strict=True) if token not in tokenizer.eos_ids]
    if 3 * ends * len(entry.top) > sum(p for _, p in texts):
        return True
    merged = [p for _, p in texts]
    for first, (beginning, _) in enumerate(texts):
        for second, (text, _) in enumerate(texts):
            if first != second and merged[first] and merged[second] and beginning and text.startswith(beginning):
                into, out = (second, first) if merged[second] > merged[first] else (first, second)
                merged[into] += merged[out]
                merged[out] = 0.0
    return max(merged, default=0.0) < _LIKELY
