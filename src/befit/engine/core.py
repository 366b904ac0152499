"""The engine: schedule → (draft) → run → sample → update, one step at a time, on the caller's thread.

`Engine.step` is the loop's body. It returns what the step added as (request, delta) pairs; whoever drives the loop
(`befit.llm.LLM`, `AsyncEngine`) passes them on. What goes wrong with one request ends that request only.
"""

from __future__ import annotations

import logging
import time
from collections import abc
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from befit.backends.base import NON_FINITE, OK, StepResult
from befit.engine.batch import BatchBuilder, Packed
from befit.engine.masks import MaskFiller
from befit.engine.observe import EngineObserver, EngineStats, GuardedObserver
from befit.engine.outputs import Delta, FinishReason, TokenLogprob
from befit.engine.pooling import Pooling
from befit.engine.request import Request, Sequence, build_request
from befit.engine.speculation.draft_model import DraftModel
from befit.engine.speculation.speculator import Speculator
from befit.errors import BefitError, EngineDead, InvalidRequest, NonFiniteLogits, RequestFailed
from befit.sampling import SamplingParams
from befit.sched.scheduler import Scheduler

if TYPE_CHECKING:
    from befit.engine.load import LoadedModel

log = logging.getLogger("befit.engine")

Event: TypeAlias = tuple[Request, Delta]
Step: TypeAlias = list[tuple[Sequence, int]]

SCORE_ROWS = 64
"""Prompt positions that a step scores at most. With a sampled row per sequence: the rows a backend needs room for."""

FAILURES_IN_A_ROW = 3
"""So many failed steps without a good one between them mean that the backend is broken, not the requests."""


class Engine:
    """Requests over one loaded model. Not thread-safe: one thread adds, steps and aborts."""

    def __init__(self, model: LoadedModel, observer: EngineObserver | None = None) -> None:
        config = model.config
        self.model = model
        self.alive = True
        self.observer = GuardedObserver(observer)
        self.scheduler: Scheduler[Sequence] = Scheduler(
            n_blocks=config.n_blocks,
            block_size=config.block_size,
            max_seqs=config.max_seqs,
            token_budget=config.token_budget,
            score_budget=SCORE_ROWS,
            prefix_cache=config.prefix_cache,
            on_preempt=self._preempted,
        )
        drafter = None
        if model.draft is not None:
            vocab = model.program.vocab_size
            drafter = DraftModel(model.draft, vocab_size=vocab, token_budget=config.token_budget)
        self.speculator = Speculator(self.scheduler, lookup=config.speculation in ("auto", "lookup"), model=drafter)
        self._masks = MaskFiller(model.program.vocab_size)
        self._batches = BatchBuilder(config.max_seqs, -(-config.ctx // config.block_size))
        self._requests: dict[str, Request] = {}
        self._idle: list[Request] = []  # requests for 0 tokens and no scores: nothing to compute
        self._failures = 0
        self._steps = self._prompt_tokens = self._cached_tokens = self._output_tokens = 0

    # -- requests -------------------------------------------------------------------------------------------------

    def add_request(
        self,
        prompt_ids: abc.Sequence[int],
        params: SamplingParams,
        *,
        request_id: str | None = None,
        priority: int = 0,
        cache_salt: str = "",
        pooling: Pooling | None = None,
    ) -> Request:
        """Check a request and queue it. Raises InvalidRequest, ContextExceeded, EngineDead."""
        request = build_request(
            self.model,
            prompt_ids,
            params,
            request_id=request_id,
            priority=priority,
            cache_salt=cache_salt,
            pooling=pooling,
        )
        self.add(request)
        return request

    def add(self, request: Request) -> None:
        """Queue a request that `build_request` made."""
        if not self.alive:
            raise EngineDead("The engine has stopped; restart it to serve requests.")
        if request.id in self._requests:
            raise InvalidRequest(
                f"request_id {request.id!r} is in use by a running request; choose another.", "request_id"
            )
        if request.params.prompt_logprobs is not None or request.pooling is not None:
            self.scheduler.add(request.sequences[0])  # the others follow when it has scored the prompt
        elif request.params.max_tokens == 0:
            self._idle.append(request)
        else:
            for sequence in request.sequences:
                self.scheduler.add(sequence)
        self._requests[request.id] = request
        self.observer.request_arrived(len(request.prompt_ids))

    def abort(self, request_id: str) -> list[Event]:
        """End a request now and free its pages; unknown and finished ones are no error."""
        events: list[Event] = []
        request = self._requests.get(request_id)
        if request is not None:
            for sequence in request.sequences:
                if sequence.finish_reason is None:
                    self._end(sequence, "abort", None, Delta(sequence.index, "", []), events)
        return events

    def abort_all(self) -> list[Event]:
        """Abort everything."""
        return [event for request_id in list(self._requests) for event in self.abort(request_id)]

    @property
    def has_work(self) -> bool:
        """Whether `step` has something to do."""
        return bool(self._requests)

    def stats(self) -> EngineStats:
        """Counts at this moment; may be called from any thread."""
        scheduler = self.scheduler
        return EngineStats(
            running=len(scheduler.running),
            waiting=len(scheduler.waiting),
            kv_blocks=scheduler.pool.n_blocks,
            kv_blocks_used=scheduler.pool.n_used,
            prompt_tokens_total=self._prompt_tokens,
            cached_tokens_total=self._cached_tokens,
            output_tokens_total=self._output_tokens,
            preemptions_total=scheduler.preemptions,
            steps_total=self._steps,
            drafts_total=self.speculator.drafts,
            drafted_tokens_total=self.speculator.drafted_tokens,
            accepted_tokens_total=self.speculator.accepted_tokens,
        )

    # -- the loop's body ------------------------------------------------------------------------------------------

    def step(self) -> list[Event]:
        """Compute one step and return what it added. Raises EngineDead once the engine is dead."""
        if not self.alive:
            raise EngineDead("The engine has stopped; restart it to serve requests.")
        events = self._end_idle()
        step = self._with_samplers(self.scheduler.schedule(), events)
        if not step:
            return events
        self.speculator.prepare(step)
        for sequence, drafted in self._masks.cut_drafts(step):
            self.speculator.verified(sequence, drafted, 0)
        packed = self._batches.pack(step)
        self._masks.begin(step, packed)
        begin = time.monotonic()
        try:
            result = self.model.backend.step(packed.batch)
        except Exception as error:
            self._step_failed(step, error, events)
            return events
        now = time.monotonic()
        self._failures = 0
        self._steps += 1
        self.speculator.observe(len(packed.batch.tokens), now - begin)
        self._update(step, packed, result, now, events)
        self.observer.step(len(packed.batch.tokens), now - begin)
        return events

    def _update(self, step: Step, packed: Packed, result: StepResult, now: float, events: list[Event]) -> None:
        tokens: list[int] = result.tokens.tolist()
        status: list[int] = result.status.tolist()
        gaps: list[float] = []
        row = pooled = 0
        for (sequence, n), n_scores, n_samples, n_pooled in zip(
            step, packed.scores, packed.samples, packed.pooled, strict=True
        ):
            first, row = row, row + n_scores + n_samples
            first_pooled, pooled = pooled, pooled + n_pooled
            request = sequence.request
            drafted, sequence.drafts = len(sequence.drafts), []
            if sequence.finish_reason is not None:  # a sibling earlier in this step took the request down
                continue
            if NON_FINITE in status[first : min(row, first + n_scores + 1)]:
                self._fail(request, _non_finite(sequence), events)
                continue
            self.scheduler.advance(sequence, n)
            try:
                if n_scores:
                    self._score(sequence, tokens, result, first, n_scores)
                if n_pooled and not self._gather(sequence, result, first_pooled, n_pooled):
                    self._fail(request, _non_finite(sequence), events)
                    continue
                if n_samples:
                    rows = range(first + n_scores, row)
                    produced = self._append(sequence, rows, tokens, status, result, now, gaps, events)
                    if drafted:
                        self.speculator.verified(sequence, drafted, produced - 1)
                elif sequence.computed == sequence.limit:
                    self._end_scored(request, events)
            except Exception as error:
                log.exception("Request %s failed after its step.", request.id)
                self._fail(request, _wrapped(error), events)
        if gaps:
            self.observer.tokens(gaps)

    def _append(
        self,
        sequence: Sequence,
        rows: range,
        tokens: list[int],
        status: list[int],
        result: StepResult,
        now: float,
        gaps: list[float],
        events: list[Event],
    ) -> int:
        """The tokens of a sequence's rows, up to where a draft was wrong or the output ends; how many there are."""
        request = sequence.request
        if sequence.produced:
            gaps.append(now - sequence.last_time)
        sequence.last_time = now
        if not request.started:
            self.observer.first_token(now - request.arrival)
            if request.params.prompt_logprobs is not None:
                for sibling in request.sequences[1:]:
                    self.scheduler.add(sibling)
        delta = Delta(sequence.index, "", [])
        if request.logprobs >= 0:
            delta.logprobs = []
        for row in rows:
            if status[row] != OK:
                break
            if row > rows[0]:  # the draft before was right, so it is computed already
                self.scheduler.advance(sequence, 1)
            token = tokens[row]
            if delta.logprobs is not None:
                delta.logprobs.append(_token_logprob(result, row, token))
            delta.token_ids.append(token)
            reason, stop_reason, text = self._take(sequence, token)
            delta.text += text
            if reason is not None:
                self._end(sequence, reason, stop_reason, delta, events)
                return len(delta.token_ids)
        self._emit(request, delta, events)
        if status[row] == NON_FINITE:
            self._fail(request, _non_finite(sequence), events)
        return len(delta.token_ids)

    def _take(self, sequence: Sequence, token: int) -> tuple[FinishReason | None, str | int | None, str]:
        """One more output token: whether it is the last and why, and the text that it lets through."""
        request = sequence.request
        params = request.params
        sequence.tokens.append(token)
        sequence.produced += 1
        self._output_tokens += 1
        armed = sequence.produced > params.min_tokens
        reason: FinishReason | None = None
        stop_reason: str | int | None = None
        text = ""
        ended = armed and token in request.end_ids
        if not ended or params.include_stop_str_in_output:
            text = sequence.text.push(token, armed=armed)
        if sequence.text.stopped is None:
            if ended:
                reason, stop_reason = "stop", None if token in request.eos_ids else token
            elif sequence.grammar is not None and sequence.grammar.push(token):
                reason = "stop"
            elif len(sequence.tokens) >= sequence.limit:
                reason = "length"
            if reason is not None:
                text += sequence.text.finish(armed=armed)
        if sequence.text.stopped is not None:
            reason, stop_reason = "stop", sequence.text.stopped
        return reason, stop_reason, text

    def _preempted(self, sequence: Sequence) -> None:
        self.speculator.preempted(sequence)
        self.observer.preempted()

    def _score(self, sequence: Sequence, tokens: list[int], result: StepResult, first: int, count: int) -> None:
        scores = sequence.request.prompt_logprobs
        assert scores is not None
        scores += [_token_logprob(result, row, tokens[row]) for row in range(first, first + count)]
        sequence.scoring = len(scores) < sequence.n_prompt

    def _gather(self, sequence: Sequence, result: StepResult, first: int, count: int) -> bool:
        """Add hidden states to the sequence's pool; False when they are not finite."""
        assert sequence.pool is not None
        assert result.hidden is not None
        hidden = result.hidden[first : first + count]
        sequence.pool.add(hidden)
        return bool(np.isfinite(hidden).all())

    # -- ends -----------------------------------------------------------------------------------------------------

    def _emit(self, request: Request, delta: Delta, events: list[Event]) -> None:
        if not request.started:
            request.started = True
            delta.cached_tokens = request.cached
            if delta.finish_reason not in ("abort", "error"):
                delta.prompt_logprobs = request.prompt_logprobs
                self._prompt_tokens += len(request.prompt_ids)
                self._cached_tokens += request.cached
        events.append((request, delta))

    def _end(
        self,
        sequence: Sequence,
        reason: FinishReason,
        stop_reason: str | int | None,
        delta: Delta,
        events: list[Event],
    ) -> None:
        """The sequence is over: free its pages, complete its last delta."""
        request = sequence.request
        self.scheduler.remove(sequence, suspect=reason == "error")
        sequence.finish_reason = delta.finish_reason = reason
        sequence.stop_reason = delta.stop_reason = stop_reason
        request.unfinished -= 1
        self._emit(request, delta, events)
        if request.finished:
            del self._requests[request.id]
            self.observer.finished(
                reason, len(request.prompt_ids), request.produced, request.cached, time.monotonic() - request.arrival
            )

    def _end_idle(self) -> list[Event]:
        events: list[Event] = []
        while self._idle:
            request = self._idle.pop()
            if not request.finished:
                self._end_scored(request, events)
        return events

    def _end_scored(self, request: Request, events: list[Event]) -> None:
        """A request for 0 tokens is over when its prompt is scored or pooled."""
        for sequence in request.sequences:
            embedding = sequence.pool.result() if sequence.pool is not None else None
            self._end(sequence, "length", None, Delta(sequence.index, "", [], embedding=embedding), events)

    def _fail(self, request: Request, error: Exception, events: list[Event]) -> None:
        """End a request with an error, in all its sequences. Its pages are suspect and not reused."""
        for sequence in request.sequences:
            if sequence.finish_reason is None:
                self._end(sequence, "error", None, Delta(sequence.index, "", [], error=error), events)

    def _with_samplers(self, step: Step, events: list[Event]) -> Step:
        """The step less the requests whose rules the backend refuses."""
        failed = False
        for sequence, _ in step:
            if sequence.sampler is None and sequence.finish_reason is None:
                try:
                    sequence.sampler = self.model.backend.new_sampler(sequence.spec, sequence.request.prompt_ids)
                except Exception as error:
                    log.exception("Request %s could not start.", sequence.request.id)
                    self._fail(sequence.request, _wrapped(error), events)
                    failed = True
        return [(sequence, n) for sequence, n in step if sequence.finish_reason is None] if failed else step

    def _step_failed(self, step: Step, error: Exception, events: list[Event]) -> None:
        """The backend raised: what was in the step fails; too often in a row, and the engine is dead."""
        log.exception("A step of %d sequences failed.", len(step))
        self._failures += 1
        for sequence, _ in step:
            self._fail(sequence.request, _wrapped(error), events)
        if self._failures >= FAILURES_IN_A_ROW:
            events += self.die(f"{self._failures} steps failed in a row, the last with {error!r}")

    def die(self, why: str) -> list[Event]:
        """Serve nothing any more; everything unfinished ends with EngineDead."""
        self.alive = False
        events: list[Event] = []
        for request in list(self._requests.values()):
            self._fail(request, EngineDead(f"The engine has stopped: {why}. Restart it to serve requests."), events)
        return events


def _token_logprob(result: StepResult, row: int, token: int) -> TokenLogprob:
    top = result.top[row] if result.top else []
    return TokenLogprob(token, float(result.logprob[row]), int(result.rank[row]), top)


def _wrapped(error: Exception) -> BefitError:
    """The error that a client is told about."""
    if isinstance(error, BefitError):
        return error
    failed = RequestFailed(f"The request failed inside the engine: {error!r}. Other requests go on; try again.")
    failed.__cause__ = error
    return failed


def _non_finite(sequence: Sequence) -> BefitError:
    if sequence.grammar is not None and sequence.grammar.error is not None:
        return _wrapped(sequence.grammar.error)
    return NonFiniteLogits(
        f"The model produced logits that are not finite after {sequence.produced} output tokens. "
        "Other requests go on; if it happens again with this prompt, the model file is likely damaged."
    )
