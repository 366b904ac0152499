"""What the engine tells an observer (metrics, traces), and the guard that keeps observers from failing requests."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from befit.engine.outputs import FinishReason

log = logging.getLogger("befit.engine")


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStats:
    """A snapshot of the engine. The totals only grow; KV pages that are merely kept for reuse count as free.

    loops_total counts outputs that the loop guard ended, closed_total those whose structure was completed because
    their tokens ran out;
    drafts_total counts how often a step verified drafts of a sequence, drafted_tokens_total and accepted_tokens_total
    the tokens in them and those of them that were right. cpu_seconds is the CPU time of a server's own threads, the
    event loop's and the engine's, less the steps of the backend; None where there is no server or the system does not
    tell.
    """

    running: int = 0
    waiting: int = 0
    kv_blocks: int = 0
    kv_blocks_used: int = 0
    prompt_tokens_total: int = 0
    cached_tokens_total: int = 0
    output_tokens_total: int = 0
    preemptions_total: int = 0
    loops_total: int = 0
    closed_total: int = 0
    steps_total: int = 0
    drafts_total: int = 0
    drafted_tokens_total: int = 0
    accepted_tokens_total: int = 0
    cpu_seconds: float | None = None

    @property
    def kv_usage(self) -> float:
        """Part of the KV pool that running sequences hold, 0..1."""
        return self.kv_blocks_used / self.kv_blocks if self.kv_blocks else 0.0

    @property
    def mean_acceptance_length(self) -> float:
        """Tokens that a sequence got from a step that verified drafts of it, on average; 1 without any."""
        return 1 + self.accepted_tokens_total / self.drafts_total if self.drafts_total else 1.0


class EngineObserver(Protocol):
    """Callbacks from the engine; durations are seconds of a monotonic clock.

    In a server, `first_token`, `tokens` and `finished` are called on the event loop, where tokens become text, and the
    others on the thread of the steps. They should be quick: both wait for them. An exception is logged once and
    otherwise ignored.
    """

    def request_arrived(self, prompt_tokens: int) -> None:
        """A request passed validation and waits."""
        ...

    def first_token(self, seconds: float) -> None:
        """A request has its first token, so long after it arrived."""
        ...

    def tokens(self, gaps: Sequence[float]) -> None:
        """A step produced later tokens: for each sequence that got some, the time since it got the ones before.

        With speculation that may be several tokens at once: one gap all the same, as in vLLM's inter-token latency.
        """
        ...

    def finished(
        self, reason: FinishReason, prompt_tokens: int, output_tokens: int, cached_tokens: int, seconds: float
    ) -> None:
        """A request ended, all of its continuations included; `seconds` since it arrived."""
        ...

    def step(self, tokens: int, seconds: float) -> None:
        """The backend computed a step of so many tokens."""
        ...

    def preempted(self) -> None:
        """A running sequence gave its pages back and will be computed again."""
        ...


class GuardedObserver:
    """Passes calls on to an observer, if there is one. The first exception of each callback is logged; none escapes."""

    def __init__(self, observer: EngineObserver | None = None) -> None:
        self.observer = observer
        self._failed: set[str] = set()

    def request_arrived(self, prompt_tokens: int) -> None:
        """See `EngineObserver`."""
        if self.observer is not None:
            self._call(self.observer.request_arrived, prompt_tokens)

    def first_token(self, seconds: float) -> None:
        """See `EngineObserver`."""
        if self.observer is not None:
            self._call(self.observer.first_token, seconds)

    def tokens(self, gaps: Sequence[float]) -> None:
        """See `EngineObserver`."""
        if self.observer is not None:
            self._call(self.observer.tokens, gaps)

    def finished(
        self, reason: FinishReason, prompt_tokens: int, output_tokens: int, cached_tokens: int, seconds: float
    ) -> None:
        """See `EngineObserver`."""
        if self.observer is not None:
            self._call(self.observer.finished, reason, prompt_tokens, output_tokens, cached_tokens, seconds)

    def step(self, tokens: int, seconds: float) -> None:
        """See `EngineObserver`."""
        if self.observer is not None:
            self._call(self.observer.step, tokens, seconds)

    def preempted(self) -> None:
        """See `EngineObserver`."""
        if self.observer is not None:
            self._call(self.observer.preempted)

    def _call(self, callback: Callable[..., None], *args: Any) -> None:
        try:
            callback(*args)
        except Exception:
            name = getattr(callback, "__name__", repr(callback))
            if name not in self._failed:
                self._failed.add(name)
                log.exception(
                    "The observer's %s failed; requests go on, and further failures of it are not logged.", name
                )
