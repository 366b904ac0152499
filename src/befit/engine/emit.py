"""From token ids to what users get: text, cut at stop strings and loops; ends that only it shows; who is told.

The engine decides by token ids alone and goes on with the next step; what it added becomes text here, on whichever
thread reads it, while that step runs. So a stop string or a loop is found when its sequence has been scheduled again.
What was computed for it in the meantime is dropped, and the engine is told to end it.
"""

from __future__ import annotations

import logging
from typing import TypeAlias

from befit.engine.observe import GuardedObserver
from befit.engine.outputs import CLOSED_STOP_REASON, LOOP_STOP_REASON, Delta
from befit.engine.request import Request, Sequence
from befit.errors import BefitError, RequestFailed

log = logging.getLogger("befit.engine")

Output: TypeAlias = tuple[Sequence, Delta, float]
"""What a step added to a sequence, still without its text, and when (monotonic seconds)."""

Event: TypeAlias = tuple[Request, Delta]

End: TypeAlias = tuple[Sequence, bool]
"""A sequence that the engine should end, and whether its pages are suspect."""


class Emitter:
    """Completes outputs in their order. Only one thread uses it, and only it touches the text of sequences."""

    def __init__(self, observer: GuardedObserver) -> None:
        self.observer = observer
        self.prompt_tokens = self.cached_tokens = self.output_tokens = self.loops = self.closed = 0

    def emit(self, outputs: list[Output]) -> tuple[list[Event], list[End]]:
        """The deltas to pass on, and the sequences that the engine does not know to be over."""
        events: list[Event] = []
        ends: list[End] = []
        gaps: list[float] = []
        for sequence, delta, now in outputs:
            if sequence.finish_reason is not None:  # found to be over while this was computed
                continue
            if delta.error is not None:
                self._fail(sequence.request, delta.error, now, events, ends)
                continue
            if delta.token_ids:
                self._time(sequence, now, gaps)
                decided = delta.finish_reason
                try:
                    self._write(sequence, delta)
                except Exception as error:
                    log.exception("The text of request %s failed.", sequence.request.id)
                    self._fail(sequence.request, wrapped(error), now, events, ends)
                    continue
                if decided is None and delta.finish_reason is not None:
                    ends.append((sequence, False))
            self._pass_on(sequence, delta, now, events)
        if gaps:
            self.observer.tokens(gaps)
        return events, ends

    def _time(self, sequence: Sequence, now: float, gaps: list[float]) -> None:
        request = sequence.request
        if sequence.produced:
            gaps.append(now - sequence.last_time)
        sequence.last_time = now
        if not request.started:
            self.observer.first_token(now - request.arrival)

    def _write(self, sequence: Sequence, delta: Delta) -> None:
        """The text of the delta's tokens, up to a stop string or a loop: the tokens after the one that ends it go."""
        request, text, guard = sequence.request, sequence.text, sequence.guard
        params, ids = request.params, delta.token_ids
        shown = ""
        for count, token in enumerate(ids, 1):
            sequence.produced += 1
            armed = sequence.produced > params.min_tokens
            if not (armed and token in request.end_ids) or params.include_stop_str_in_output:
                shown += text.push(token, armed=armed)
            last = count == len(ids) and delta.finish_reason is not None
            looping = guard is not None and guard.push(token) and armed and not last and text.stopped is None
            if looping or (last and text.stopped is None):
                shown += text.finish(armed=armed)
            if text.stopped is not None or looping:
                stop = LOOP_STOP_REASON if text.stopped is None else text.stopped
                self.loops += text.stopped is None
                cut = looping and sequence.grammar is not None and sequence.grammar.active
                delta.finish_reason, delta.stop_reason = "length" if cut else "stop", stop
                del ids[count:]
                if delta.logprobs is not None:
                    del delta.logprobs[count:]
                break
        self.output_tokens += len(ids)
        delta.text = shown

    def _pass_on(self, sequence: Sequence, delta: Delta, now: float, events: list[Event]) -> None:
        request = sequence.request
        if not request.started:
            request.started = True
            delta.cached_tokens = request.cached
            delta.queue_seconds = max(0.0, request.first_step - request.arrival)
            if delta.finish_reason not in ("abort", "error"):
                delta.prompt_logprobs = request.prompt_logprobs
                self.prompt_tokens += len(request.prompt_ids)
                self.cached_tokens += request.cached
        events.append((request, delta))
        if delta.finish_reason is not None:
            sequence.finish_reason, sequence.stop_reason = delta.finish_reason, delta.stop_reason
            self.closed += delta.stop_reason == CLOSED_STOP_REASON
            request.unfinished -= 1
            if request.finished:
                self.observer.finished(
                    delta.finish_reason,
                    len(request.prompt_ids),
                    request.produced,
                    request.cached,
                    now - request.arrival,
                )

    def _fail(self, request: Request, error: Exception, now: float, events: list[Event], ends: list[End]) -> None:
        """End a request with an error, in all its sequences. Its pages are suspect and not reused."""
        for sequence in request.sequences:
            if sequence.finish_reason is None:
                delta = Delta(sequence.index, "", [], finish_reason="error", error=error)
                self._pass_on(sequence, delta, now, events)
                ends.append((sequence, True))


def wrapped(error: Exception) -> BefitError:
    """The error that a client is told about."""
    if isinstance(error, BefitError):
        return error
    failed = RequestFailed(f"The request failed inside the engine: {error!r}. Other requests go on; try again.")
    failed.__cause__ = error
    return failed
