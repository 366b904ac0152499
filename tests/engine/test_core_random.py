"""Batching, preemption, prefix reuse, speculation, late texts change nothing: each request gives what it gives alone.

Texts are late when they are made while later steps run already: `Late` is an engine whose outputs wait some steps.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from befit.engine.core import Engine
from befit.engine.emit import End, Event, Output
from befit.engine.load import LoadedModel
from befit.engine.outputs import CompletionOutput
from befit.engine.speculation.draft_model import Follower
from befit.engine.speculation.step_time import StepTime
from befit.sampling import SamplingParams

CTX = 28
VOCAB = 30


@dataclass
class Job:
    step: int
    prompt: list[int]
    params: SamplingParams
    priority: int
    salt: str
    abort_after: int | None


prompts = st.one_of(
    st.lists(st.integers(2, 3), min_size=1, max_size=18),
    st.integers(1, 18).map(lambda n: [4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21][:n]),
)
params = st.builds(
    SamplingParams,
    n=st.integers(1, 3),
    temperature=st.sampled_from([0.0, 1.0]),
    seed=st.integers(0, 3),
    max_tokens=st.integers(0, 10),
    ignore_eos=st.booleans(),
    stop=st.lists(st.text("abcdefgh", min_size=1, max_size=2), max_size=3),
    include_stop_str_in_output=st.booleans(),
    logprobs=st.none() | st.integers(0, 2),
    prompt_logprobs=st.none() | st.just(0),
)
jobs = st.builds(
    Job,
    step=st.integers(0, 15),
    prompt=prompts,
    params=params,
    priority=st.integers(-1, 1),
    salt=st.sampled_from(["", "", "other"]),
    abort_after=st.none() | st.integers(0, 8),
)


class Junk:
    """A draft model that guesses anything, as many tokens as it may."""

    def __init__(self, seed: int) -> None:
        self.time = StepTime()
        self._random = random.Random(seed)

    def draft(self, wanted: Iterable[tuple[Follower, int]]) -> list[tuple[Follower, list[int]]]:
        return [(follower, self._random.choices(range(VOCAB), k=count)) for follower, count in wanted]


class Free(StepTime):
    """Steps that take no time, so that drafts always pay."""

    def predict(self, tokens: int) -> float:
        return 1.0


class Late:
    """An engine as a server drives it: outputs become text, and what text ends is ended, up to `most` steps later."""

    def __init__(self, engine: Engine, seed: int, most: int) -> None:
        self.engine = engine
        self.surplus = 0
        self._random = random.Random(seed)
        self._most = most
        self._outputs: list[list[Output]] = []
        self._ends: list[list[End]] = []

    @property
    def has_work(self) -> bool:
        return self.engine.has_work or bool(self._outputs) or bool(self._ends)

    def step(self) -> list[Event]:
        for ends in self._ends:
            for sequence, suspect in ends:
                self.engine.end_sequence(sequence, suspect=suspect)
        self._ends = []
        events: list[Event] = []
        if self.engine.has_work:
            self.engine.compute(lambda: events.extend(self._emit(self._random.randint(0, self._most))))
            self._outputs.append(self.engine.take_outputs())
        else:
            events += self._emit(0)
        return events

    def abort(self, name: str) -> None:
        self.engine.end_request(name)
        self._outputs.append(self.engine.take_outputs())

    def _emit(self, keep: int) -> list[Event]:
        events: list[Event] = []
        while len(self._outputs) > keep:
            outputs = self._outputs.pop(0)
            self.surplus += sum(len(d.token_ids) for s, d, _ in outputs if s.finish_reason is not None)
            added, ends = self.engine.emitter.emit(outputs)
            events += added
            self._ends.append(ends)
        return events


@settings(max_examples=150)
@given(
    work=st.lists(jobs, max_size=10),
    late=st.none() | st.integers(0, 3),
    n_blocks=st.integers(7, 12),
    max_seqs=st.integers(1, 5),
    extra=st.integers(0, 10),
    cache=st.booleans(),
    order=st.sampled_from([None, 1, 2]),
    drafts=st.sampled_from(["off", "lookup", "junk", "perfect", "lookup and model"]),
    free=st.booleans(),
)
def test_every_request_gives_what_it_gives_alone(
    make_model: Callable[..., LoadedModel],
    alone: Callable[..., Any],
    score_of: Callable[[list[int], int], float],
    nothing_left: Callable[[Engine], Any],
    work: list[Job],
    n_blocks: int,
    max_seqs: int,
    extra: int,
    cache: bool,
    order: int | None,
    drafts: str,
    free: bool,
    late: int | None,
) -> None:
    model = make_model(
        order=order,
        draft_order={"perfect": 0, "lookup and model": 1}.get(drafts),
        speculation="lookup" if "lookup" in drafts else "off",
        ctx=CTX,
        n_blocks=n_blocks,
        max_seqs=max_seqs,
        token_budget=max_seqs + extra,
        prefix_cache=cache,
    )
    engine = Engine(model)
    if drafts == "junk":
        engine.speculator.model = Junk(extra)  # type: ignore[assignment]
    if free:
        engine.speculator.time = Free()
    pending = sorted(range(len(work)), key=lambda i: work[i].step)
    outputs = {str(i): [CompletionOutput(k, logprobs=[]) for k in range(job.params.n)] for i, job in enumerate(work)}
    abort_at: dict[str, int] = {}
    aborted: set[str] = set()
    driver: Any = engine if late is None else Late(engine, extra, late)
    with nothing_left(engine):
        for now in range(2000):
            while pending and work[pending[0]].step <= now:
                i = pending.pop(0)
                job = work[i]
                engine.add_request(
                    job.prompt, job.params, request_id=str(i), priority=job.priority, cache_salt=job.salt
                )
                if job.abort_after is not None:
                    abort_at[str(i)] = now + job.abort_after
            events = driver.step() if driver.has_work else []
            engine.scheduler.check_integrity()
            for name in [name for name, at in abort_at.items() if at <= now]:
                del abort_at[name]
                if any(output.finish_reason is None for output in outputs[name]):
                    events += driver.abort(name) or []
                    aborted.add(name)
            for request, delta in events:
                output = outputs[request.id][delta.index]
                assert output.finish_reason is None, "a delta after the end"
                output.text += delta.text
                output.token_ids += delta.token_ids
                output.finish_reason, output.stop_reason = delta.finish_reason, delta.stop_reason
                assert output.logprobs is not None
                output.logprobs += delta.logprobs or []
            if not pending and not driver.has_work:
                break
    speculator = engine.speculator
    assert (speculator.drafts == 0) or drafts != "off"
    assert speculator.lookup == ("lookup" in drafts), "it failed and was turned off"
    assert (speculator.model is not None) == (drafts not in ("off", "lookup")), "it failed and was turned off"
    for i, job in enumerate(work):
        for output in outputs[str(i)]:
            expected = alone(job.prompt, job.params, CTX, output.index, order)
            if output.finish_reason == "abort":
                assert str(i) in aborted
                assert output.token_ids == expected.token_ids[: len(output.token_ids)]
                continue
            assert output.token_ids == expected.token_ids
            assert output.text == expected.text
            assert (output.finish_reason, output.stop_reason) == (expected.finish_reason, expected.stop_reason)
            if job.params.logprobs is not None:
                history = list(job.prompt)
                for entry in output.logprobs or []:
                    assert entry.logprob == score_of(history, entry.token_id)
                    history.append(entry.token_id)
                assert len(history) == len(job.prompt) + len(output.token_ids)
