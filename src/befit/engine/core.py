"""The engine: schedule → (draft) → run → sample → update, one step at a time, on the caller's thread.

`Engine.compute` is the loop's body. It decides by token ids alone; what it adds is given out just before the next step
runs, so that another thread can make text of it meanwhile (see `befit.engine.emit`). `Engine.step` is for those who
have one thread: it returns what the step added as (request, delta) pairs. What goes wrong with one request ends that
request only.
"""

from __future__ import annotations

import logging
import time
from collections import abc
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from befit.backends.base import NON_FINITE, OK, StepResult
from befit.config import SCORE_ROWS
from befit.engine.batch import BatchBuilder, Packed
from befit.engine.emit import Emitter, Event, Output, wrapped
from befit.engine.masks import MaskFiller
from befit.engine.observe import EngineObserver, EngineStats, GuardedObserver
from befit.engine.outputs import CLOSED_STOP_REASON, Delta, FinishReason, TokenLogprob
from befit.engine.pooling import Pooling
from befit.engine.request import Request, Sequence, build_request
from befit.engine.speculation.draft_model import DraftModel
from befit.engine.speculation.speculator import Speculator
from befit.errors import BefitError, EngineDead, InvalidRequest, NonFiniteLogits, OutOfDeviceMemory
from befit.sampling import SamplingParams
from befit.sched.scheduler import Scheduler

if TYPE_CHECKING:
    from befit.engine.load import LoadedModel

log = logging.getLogger("befit.engine")

Step: TypeAlias = list[tuple[Sequence, int]]

FAILURES_IN_A_ROW = 3
"""So many failed steps without a good one between them mean that the backend is broken, not the requests."""


class Engine:
    """Requests over one loaded model. Not thread-safe: one thread adds, steps and aborts."""

    def __init__(self, model: LoadedModel, observer: EngineObserver | None = None) -> None:
        config = model.config
        self.model = model
        self.alive = True
        self.observer = GuardedObserver(observer)
        self.emitter = Emitter(self.observer)
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
        self._outputs: list[Output] = []  # what was added and not given out yet
        self._failures = 0
        self._steps = 0
        self.cpu_seconds = 0.0  # of the thread that computes, less the steps of the model and the draft model
        self._cpu = 0.0

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
        self.end_request(request_id)
        return self._emit()

    def abort_all(self) -> list[Event]:
        """Abort everything."""
        self.end_all()
        return self._emit()

    def end_request(self, request_id: str) -> None:
        """What `abort` does, without its deltas: they are given out with those of the steps."""
        request = self._requests.get(request_id)
        for sequence in request.sequences if request is not None else ():
            if not sequence.ended:
                self._end(sequence, "abort", None, Delta(sequence.index, "", []))

    def end_all(self) -> None:
        """What `abort_all` does, without its deltas."""
        for request_id in list(self._requests):
            self.end_request(request_id)

    def end_sequence(self, sequence: Sequence, *, suspect: bool) -> None:
        """Compute nothing more of a sequence that its text has ended, if it was not over by itself."""
        if not sequence.ended:
            self._let_go(sequence, suspect=suspect)

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
            prompt_tokens_total=self.emitter.prompt_tokens,
            cached_tokens_total=self.emitter.cached_tokens,
            output_tokens_total=self.emitter.output_tokens,
            preemptions_total=scheduler.preemptions,
            loops_total=self.emitter.loops,
            closed_total=self.emitter.closed,
            steps_total=self._steps,
            drafts_total=self.speculator.drafts,
            drafted_tokens_total=self.speculator.drafted_tokens,
            accepted_tokens_total=self.speculator.accepted_tokens,
        )

    # -- the loop's body ------------------------------------------------------------------------------------------

    def step(self) -> list[Event]:
        """Compute one step and return what it added. Raises EngineDead once the engine is dead."""
        self.compute()
        return self._emit()

    def compute(self, give_out: abc.Callable[[], None] = lambda: None) -> None:
        """Compute one step; `take_outputs` has what it added. Raises EngineDead once the engine is dead.

        give_out is called when the next thing is a long computation of the backend: what it wakes need not share the
        interpreter with the loop, which would wait for it.
        """
        if not self.alive:
            raise EngineDead("The engine has stopped; restart it to serve requests.")
        self._end_idle()
        step = self._with_samplers(self.scheduler.schedule())
        if not step:
            give_out()
            return
        self._draft(step, give_out)
        packed = self._batches.pack(step)
        self._masks.begin(step, packed)
        give_out()
        self.cpu_seconds += self._lap()
        begin = time.monotonic()
        try:
            result = self.model.backend.step(packed.batch)
        except Exception as error:
            self._step_failed(step, error)
            return
        finally:
            now = time.monotonic()
            self._lap()
        self._failures = 0
        self._steps += 1
        self.speculator.observe(len(packed.batch.tokens), now - begin)
        self._update(step, packed, result, now)
        self.observer.step(len(packed.batch.tokens), now - begin)

    def _draft(self, step: Step, give_out: abc.Callable[[], None]) -> None:
        """Guesses behind the known tokens. With a draft model, they are computations of the backend too."""
        if self.speculator.model is not None:
            give_out()
            self.cpu_seconds += self._lap()
        self.speculator.prepare(step)
        for sequence, drafted in self._masks.cut_drafts(step):
            self.speculator.verified(sequence, drafted, 0)
        if self.speculator.model is not None:
            self._lap()

    def _lap(self) -> float:
        """CPU seconds of this thread since the last time."""
        before, self._cpu = self._cpu, time.thread_time()
        return self._cpu - before

    def take_outputs(self) -> list[Output]:
        """What was added since the last time, for the emitter."""
        outputs, self._outputs = self._outputs, []
        return outputs

    def _emit(self) -> list[Event]:
        events, ends = self.emitter.emit(self.take_outputs())
        for sequence, suspect in ends:
            self.end_sequence(sequence, suspect=suspect)
        return events

    def _update(self, step: Step, packed: Packed, result: StepResult, now: float) -> None:
        tokens: list[int] = result.tokens.tolist()
        status: list[int] = result.status.tolist()
        row = pooled = 0
        starts: list[int] = packed.batch.query_start[:-1].tolist()
        for (sequence, n), start, n_scores, n_samples, n_pooled in zip(
            step, starts, packed.scores, packed.samples, packed.pooled, strict=True
        ):
            first, row = row, row + n_scores + n_samples
            first_pooled, pooled = pooled, pooled + n_pooled
            drafted, sequence.drafts = len(sequence.drafts), []
            if sequence.ended:  # a sibling earlier in this step took the request down
                continue
            # What follows the n tokens are drafts, which matter only if they are taken: then their rows say so.
            spoiled = any(start <= token < start + n for token in result.spoiled)
            if spoiled or NON_FINITE in status[first : min(row, first + n_scores + 1)]:
                self._fail(sequence, _non_finite(sequence))
                continue
            self.scheduler.advance(sequence, n)
            try:
                if n_scores:
                    self._score(sequence, tokens, result, first, n_scores)
                if n_pooled and not self._gather(sequence, result, first_pooled, n_pooled):
                    self._fail(sequence, _non_finite(sequence))
                    continue
                if n_samples:
                    rows = range(first + n_scores, row)
                    produced = self._append(sequence, rows, tokens, status, result, now)
                    if drafted:
                        self.speculator.verified(sequence, drafted, max(produced - 1, 0))
                elif sequence.computed == sequence.limit:
                    self._end_scored(sequence.request)
            except Exception as error:
                log.exception("Request %s failed after its step.", sequence.request.id)
                self._fail(sequence, wrapped(error))

    def _append(
        self, sequence: Sequence, rows: range, tokens: list[int], status: list[int], result: StepResult, now: float
    ) -> int:
        """The tokens of a sequence's rows, up to where a draft was wrong or the output ends; how many there are."""
        request = sequence.request
        if request.prompt_logprobs is not None and sequence.index == 0 and len(sequence.tokens) == sequence.n_prompt:
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
            if sequence.grammar is not None and not self._may_take(sequence, token):
                if sequence.grammar.closed:
                    self._end(sequence, "stop", CLOSED_STOP_REASON, delta, now)
                    return len(delta.token_ids)
                self.scheduler.again(sequence)
                break
            if delta.logprobs is not None:
                delta.logprobs.append(_token_logprob(result, row, token))
            delta.token_ids.append(token)
            reason, stop_reason = self._take(sequence, token)
            if reason is not None:
                self._end(sequence, reason, stop_reason, delta, now)
                return len(delta.token_ids)
        if delta.token_ids:
            self._outputs.append((sequence, delta, now))
        if status[row] == NON_FINITE:
            self._fail(sequence, _non_finite(sequence))
        return len(delta.token_ids)

    def _take(self, sequence: Sequence, token: int) -> tuple[FinishReason | None, str | int | None]:
        """One more output token: whether it is the last by its id or its number, and why."""
        request = sequence.request
        sequence.tokens.append(token)
        if token in request.end_ids and len(sequence.tokens) - sequence.n_prompt > request.params.min_tokens:
            return "stop", None if token in request.eos_ids else token
        grammar = sequence.grammar
        if grammar is not None and grammar.push(token):
            return "stop", CLOSED_STOP_REASON if grammar.closing else None
        if len(sequence.tokens) >= sequence.limit:
            return ("stop", CLOSED_STOP_REASON) if grammar is not None and grammar.complete else ("length", None)
        return None, None

    def _may_take(self, sequence: Sequence, token: int) -> bool:
        """Whether a structure can still be completed behind the token. If not, the token is not the output's, and the
        same position is computed once more, with nothing allowed but the way to the end."""
        assert sequence.grammar is not None
        ends = token in sequence.request.end_ids
        return ends or sequence.grammar.allows(token, sequence.limit - len(sequence.tokens) - 1)

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

    def _end(
        self,
        sequence: Sequence,
        reason: FinishReason,
        stop_reason: str | int | None,
        delta: Delta,
        now: float | None = None,
    ) -> None:
        """The sequence is over: free its pages, complete its last delta."""
        self._let_go(sequence, suspect=reason == "error")
        delta.finish_reason, delta.stop_reason = reason, stop_reason
        self._outputs.append((sequence, delta, time.monotonic() if now is None else now))

    def _let_go(self, sequence: Sequence, *, suspect: bool) -> None:
        request = sequence.request
        self.scheduler.remove(sequence, suspect=suspect)
        sequence.ended = True
        request.running -= 1
        if not request.running:
            del self._requests[request.id]

    def _end_idle(self) -> None:
        while self._idle:
            request = self._idle.pop()
            if request.running:
                self._end_scored(request)

    def _end_scored(self, request: Request) -> None:
        """A request for 0 tokens is over when its prompt is scored or pooled."""
        for sequence in request.sequences:
            embedding = sequence.pool.result() if sequence.pool is not None else None
            self._end(sequence, "length", None, Delta(sequence.index, "", [], embedding=embedding))

    def _fail(self, failed: Sequence, error: Exception) -> None:
        """End a sequence's request with an error. Its pages are suspect and not reused.

        With stop strings the sequence may be over without being known to be, and its failure nobody's: then what
        becomes of the other continuations is left to the emitter.
        """
        request = failed.request
        for sequence in (failed,) if request.params.stop else request.sequences:
            if not sequence.ended:
                self._end(sequence, "error", None, Delta(sequence.index, "", [], error=error))

    def _with_samplers(self, step: Step) -> Step:
        """The step less the requests whose rules the backend refuses."""
        failed = False
        for sequence, _ in step:
            if sequence.sampler is None and not sequence.ended:
                if sequence.index == 0:
                    sequence.request.first_step = time.monotonic()
                try:
                    sequence.sampler = self.model.backend.new_sampler(sequence.spec, sequence.request.prompt_ids)
                except Exception as error:
                    log.exception("Request %s could not start.", sequence.request.id)
                    self._fail(sequence, wrapped(error))
                    failed = True
        return [(sequence, n) for sequence, n in step if not sequence.ended] if failed else step

    def _step_failed(self, step: Step, error: Exception) -> None:
        """The backend raised: what was in the step fails; too often in a row, and the engine is dead."""
        if isinstance(error, OutOfDeviceMemory):
            self._make_room(step, error)
            return
        log.exception("A step of %d sequences failed.", len(step))
        self._failures += 1
        for sequence, _ in step:
            self._fail(sequence, wrapped(error))
        if self._failures >= FAILURES_IN_A_ROW:
            self.die(f"{self._failures} steps failed in a row, the last with {error!r}")

    def _make_room(self, step: Step, error: OutOfDeviceMemory) -> None:
        """A card had no room for the step, which has not happened: the newest request fails, the others try again."""
        newest = max((sequence for sequence, _ in step), key=lambda sequence: sequence.request.arrival)
        log.error("Request %s fails to make room: %s", newest.request.id, error.message)
        self._fail(newest, error)
        for sequence, _ in step:
            if sequence.drafts and not sequence.ended:
                self.speculator.verified(sequence, len(sequence.drafts), 0)
            sequence.drafts = []

    def die(self, why: str) -> None:
        """Serve nothing any more; everything unfinished ends with EngineDead."""
        self.alive = False
        error = EngineDead(f"The engine has stopped: {why}. Restart it to serve requests.")
        for request in list(self._requests.values()):
            for sequence in request.sequences:
                self._fail(sequence, error)


def _token_logprob(result: StepResult, row: int, token: int) -> TokenLogprob:
    top = result.top[row] if result.top else []
    return TokenLogprob(token, float(result.logprob[row]), int(result.rank[row]), top)


def _non_finite(sequence: Sequence) -> BefitError:
    if sequence.grammar is not None and sequence.grammar.error is not None:
        return wrapped(sequence.grammar.error)
    produced = len(sequence.tokens) - sequence.n_prompt
    return NonFiniteLogits(
        f"The model produced logits that are not finite after {produced} output tokens. "
        "Other requests go on; if it happens again with this prompt, the model file is likely damaged."
    )
