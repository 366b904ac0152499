"""Texts that are made while the next step runs: what was computed too much is nobody's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from befit.backends.base import NON_FINITE, StepBatch, StepResult
from befit.engine.core import Engine
from befit.engine.emit import Event
from befit.engine.load import LoadedModel
from befit.errors import NonFiniteLogits, RequestFailed
from befit.sampling import SamplingParams

PROMPT = [5, 6, 7, 8, 9, 10]
OTHER = [11, 12, 13]


def greedy(**wishes: Any) -> SamplingParams:
    return SamplingParams(**{"temperature": 0, "max_tokens": 12, "ignore_eos": True, **wishes})


def stopping(alone: Any, **wishes: Any) -> SamplingParams:
    """Parameters whose stop string ends PROMPT's output in its midst."""
    text = alone(PROMPT, greedy()).text
    return greedy(stop=[text[2:4]], **wishes)


@pytest.fixture
def engine(make_model: Callable[..., LoadedModel]) -> Engine:
    return Engine(make_model())


def run_late(engine: Engine) -> list[Event]:
    """To the end, where the text of a step is made while the next one runs."""
    events: list[Event] = []
    ends: list[Any] = []

    def give_out() -> None:
        added, over = engine.emitter.emit(engine.take_outputs())
        events.extend(added)
        ends.extend(over)

    while engine.has_work:
        engine.compute(give_out)
        engine.scheduler.check_integrity()
        while ends:
            sequence, suspect = ends.pop()
            engine.end_sequence(sequence, suspect=suspect)
    give_out()
    return events


def tokens_of(events: list[Event], request: Any, index: int = 0) -> list[int]:
    return [token for owner, delta in events if owner is request and delta.index == index for token in delta.token_ids]


def test_tokens_after_a_stop_string_are_computed_and_dropped(
    engine: Engine, alone: Any, nothing_left: Callable[[Engine], Any]
) -> None:
    params = stopping(alone)
    expected = alone(PROMPT, params)
    assert expected.finish_reason == "stop"
    with nothing_left(engine):
        request = engine.add_request(PROMPT, params)
        events = run_late(engine)
    assert tokens_of(events, request) == expected.token_ids
    assert "".join(delta.text for _, delta in events) == expected.text
    assert [delta.finish_reason for _, delta in events if delta.finish_reason] == ["stop"]
    assert events[-1][1].stop_reason == params.stop[0]
    stats = engine.stats()
    assert stats.output_tokens_total == request.produced == len(expected.token_ids)
    assert stats.steps_total == len(expected.token_ids) + 1
    assert len(request.sequences[0].tokens) == len(PROMPT) + len(expected.token_ids) + 1


def test_ends_by_token_or_length_compute_nothing_too_much(engine: Engine, alone: Any) -> None:
    third = alone(PROMPT, greedy()).token_ids[2]
    engine.add_request(PROMPT, greedy(stop_token_ids=[third]))
    engine.add_request(OTHER, greedy(max_tokens=2))
    run_late(engine)
    assert engine.stats().steps_total == 3


def test_a_stop_string_within_accepted_drafts_cuts_them(make_model: Callable[..., LoadedModel], alone: Any) -> None:
    engine = Engine(make_model(draft_order=0, speculation="draft"))
    params = stopping(alone, logprobs=0)
    request = engine.add_request(PROMPT, params)
    events = run_late(engine)
    assert engine.stats().accepted_tokens_total > 0
    expected = alone(PROMPT, params)
    assert tokens_of(events, request) == expected.token_ids
    assert "".join(delta.text for _, delta in events) == expected.text
    assert sum(len(delta.logprobs or ()) for _, delta in events) == len(expected.token_ids)


def spoil(engine: Engine, step: int) -> None:
    """The first row of that step has no finite logits."""
    backend: Any = engine.model.backend
    compute = backend.step

    def spoilt(batch: StepBatch) -> StepResult:
        result = compute(batch)
        if backend.steps == step:
            result.status[0] = NON_FINITE
        return result

    backend.step = spoilt


def test_a_failure_after_a_stop_string_is_nobodys(engine: Engine, alone: Any) -> None:
    """The first continuation is over, unknown to the engine, when it fails; the second goes on."""
    plain = greedy(n=2, temperature=1, seed=3)
    params = greedy(n=2, temperature=1, seed=3, stop=[alone(PROMPT, plain).text[1:3]])
    first, second = (alone(PROMPT, params, number=k) for k in range(2))
    assert len(first.token_ids) < len(second.token_ids)
    request = engine.add_request(PROMPT, params)
    spoil(engine, len(first.token_ids) + 1)
    events = run_late(engine)
    assert len(request.sequences[0].tokens) == len(PROMPT) + len(first.token_ids), "its last row gave no token"
    assert tokens_of(events, request, 0) == first.token_ids
    assert tokens_of(events, request, 1) == second.token_ids
    assert not [delta.error for _, delta in events if delta.error]


def test_a_failure_before_any_end_takes_all_continuations_down(
    engine: Engine, alone: Any, nothing_left: Callable[[Engine], Any]
) -> None:
    with nothing_left(engine):
        request = engine.add_request(PROMPT, greedy(stop=["never seen"], n=2))
        other = engine.add_request(OTHER, greedy())
        spoil(engine, 3)
        events = run_late(engine)
    for index in range(2):
        errors = [delta.error for owner, delta in events if owner is request and delta.index == index and delta.error]
        assert [type(error) for error in errors] == [NonFiniteLogits]
    assert tokens_of(events, other) == alone(OTHER, greedy()).token_ids


def test_a_text_that_fails_ends_its_request_alone(
    engine: Engine, alone: Any, monkeypatch: pytest.MonkeyPatch, nothing_left: Callable[[Engine], Any]
) -> None:
    with nothing_left(engine):
        request = engine.add_request(PROMPT, greedy())
        other = engine.add_request(OTHER, greedy())
        monkeypatch.setattr(request.sequences[0].text, "push", lambda *_, **__: 1 / 0)
        events = run_late(engine)
    [last] = [delta for owner, delta in events if owner is request]
    assert isinstance(last.error, RequestFailed)
    assert tokens_of(events, other) == alone(OTHER, greedy()).token_ids
