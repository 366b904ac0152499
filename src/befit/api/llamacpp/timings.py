"""How long a request's prompt and output took, in llama.cpp's `timings`."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Timings:
    """Counted from admission: until the first tokens came is the prompt's time (waiting included), the rest is the
    output's."""

    prompt_tokens: int
    cached: int = 0
    produced: int = 0
    _began: float = field(default_factory=time.monotonic)
    _first: float | None = None
    _last: float = 0.0

    def count(self, tokens: int, cached: int) -> None:
        """One delta came."""
        self._last = time.monotonic()
        if self._first is None:
            self._first = self._last
        self.produced += tokens
        self.cached += cached

    def render(self) -> dict[str, Any]:
        """The `timings` object; milliseconds."""
        first = self._last if self._first is None else self._first
        prompt_ms = 1000 * max(0.0, first - self._began)
        predicted_ms = 1000 * (self._last - first)
        computed = self.prompt_tokens - self.cached
        return {
            "cache_n": self.cached,
            "prompt_n": computed,
            "prompt_ms": prompt_ms,
            "prompt_per_token_ms": _ratio(prompt_ms, computed),
            "prompt_per_second": _ratio(1000 * computed, prompt_ms),
            "predicted_n": self.produced,
            "predicted_ms": predicted_ms,
            "predicted_per_token_ms": _ratio(predicted_ms, self.produced),
            "predicted_per_second": _ratio(1000 * self.produced, predicted_ms),
        }


def _ratio(value: float, by: float) -> float:
    return value / by if by else 0.0
