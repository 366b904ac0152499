"""The engine with drafts: fewer steps, the same output, and nothing lost when guessing goes wrong."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from befit.engine.core import Engine
from befit.engine.load import LoadedModel
from befit.engine.outputs import Delta
from befit.sampling import SamplingParams

MakeModel = Callable[..., LoadedModel]
PROMPT = [5, 6, 7, 8, 9, 10]
PERFECT = 0


def run(engine: Engine, prompt: list[int], **wishes: Any) -> list[Delta]:
    params = SamplingParams(**{"temperature": 0, "max_tokens": 50, "ignore_eos": True, **wishes})
    engine.add_request(prompt, params)
    deltas: list[Delta] = []
    while engine.has_work:
        deltas += [delta for _, delta in engine.step()]
        engine.scheduler.check_integrity()
    assert engine.scheduler.pool.n_used == 0
    return deltas


def tokens_of(deltas: list[Delta], index: int = 0) -> list[int]:
    return [token for delta in deltas if delta.index == index for token in delta.token_ids]


def free(engine: Engine) -> Engine:
    """Drafts always pay."""
    engine.speculator.time.predict = lambda tokens: 1.0  # type: ignore[method-assign]
    return engine


@pytest.fixture
def perfect(make_model: MakeModel) -> Engine:
    """With a draft model that is the model."""
    return free(Engine(make_model(draft_order=PERFECT)))


@pytest.fixture
def looking_up(make_model: MakeModel) -> Engine:
    """With prompt lookup, and a model that soon repeats itself."""
    return free(Engine(make_model(speculation="lookup", order=1)))


def test_a_draft_model_that_is_always_right_saves_most_steps(perfect: Engine, alone: Any) -> None:
    deltas = run(perfect, PROMPT)
    assert tokens_of(deltas) == alone(PROMPT, SamplingParams(temperature=0, max_tokens=50, ignore_eos=True)).token_ids
    stats = perfect.stats()
    assert stats.accepted_tokens_total == stats.drafted_tokens_total > 40
    assert stats.steps_total == len(deltas) < 9
    assert stats.mean_acceptance_length > 7


def test_a_text_that_repeats_itself_is_looked_up(looking_up: Engine, alone: Any) -> None:
    deltas = run(looking_up, PROMPT)
    params = SamplingParams(temperature=0, max_tokens=50, ignore_eos=True)
    assert tokens_of(deltas) == alone(PROMPT, params, order=1).token_ids
    assert looking_up.stats().steps_total < 25
    assert looking_up.stats().accepted_tokens_total > 25


def test_a_text_that_does_not_repeat_is_left_alone(make_model: MakeModel) -> None:
    engine = Engine(make_model(speculation="lookup", ctx=256, n_blocks=64))
    run(engine, PROMPT, max_tokens=200)
    assert engine.stats().drafted_tokens_total < 20


def test_turned_off_nothing_is_drafted(make_model: MakeModel) -> None:
    engine = free(Engine(make_model(order=1)))
    run(engine, PROMPT)
    assert engine.stats().drafts_total == 0


@pytest.mark.parametrize("wishes", [{}, {"temperature": 1.0, "seed": 5, "n": 3}])
def test_a_stop_string_among_accepted_drafts_cuts_the_output_there(
    looking_up: Engine, alone: Any, wishes: dict[str, Any]
) -> None:
    plain = alone(PROMPT, SamplingParams(temperature=0, max_tokens=50, ignore_eos=True), order=1)
    params = {"temperature": 0, "max_tokens": 50, "ignore_eos": True, "min_tokens": 30, "stop": plain.text[40:42]}
    params.update(wishes)
    deltas = run(looking_up, PROMPT, **params)
    for number in range(params.get("n", 1)):
        expected = alone(PROMPT, SamplingParams(**params), number=number, order=1)
        own = [delta for delta in deltas if delta.index == number]
        assert tokens_of(own, number) == expected.token_ids
        assert "".join(delta.text for delta in own) == expected.text
        assert (own[-1].finish_reason, own[-1].stop_reason) == (expected.finish_reason, expected.stop_reason)


def test_log_probabilities_come_for_each_token_of_a_delta(perfect: Engine, score_of: Any) -> None:
    history = list(PROMPT)
    for delta in run(perfect, PROMPT, logprobs=2):
        assert delta.logprobs is not None
        assert [entry.token_id for entry in delta.logprobs] == delta.token_ids
        for entry in delta.logprobs:
            assert entry.logprob == score_of(history, entry.token_id)
            history.append(entry.token_id)
    assert len(history) == len(PROMPT) + 50


def test_a_delta_of_several_tokens_is_one_gap(make_model: MakeModel) -> None:
    class Observer:
        gaps: list[float]

        def __getattr__(self, name: str) -> Any:
            return lambda *args: None

        def tokens(self, gaps: list[float]) -> None:
            self.gaps.extend(gaps)

    observer = Observer()
    observer.gaps = []
    engine = free(Engine(make_model(draft_order=PERFECT), observer))
    deltas = run(engine, PROMPT)
    assert len(observer.gaps) == len(deltas) - 1 < 50


def test_accepted_tokens_fill_pages_that_others_find(perfect: Engine) -> None:
    output = tokens_of(run(perfect, PROMPT))
    deltas = run(perfect, PROMPT + output[:40], max_tokens=2)
    assert deltas[0].cached_tokens == (len(PROMPT) + 40 - 1) // 4 * 4


def test_the_draft_model_computes_a_shared_prompt_once(make_model: MakeModel) -> None:
    engine = free(Engine(make_model(draft_order=PERFECT, n_blocks=64, token_budget=64)))
    prompt = [2 + i % 20 for i in range(33)]
    run(engine, prompt, n=3, max_tokens=12, temperature=1.0, seed=1)
    assert engine.model.draft is not None
    widths: list[int] = engine.model.draft.backend.widths  # type: ignore[attr-defined]
    assert 33 < widths[0] < 38
    assert max(widths[1:]) < 12
    run(engine, prompt, max_tokens=12)
    assert max(widths[1:]) < 12


def test_a_prompt_longer_than_a_step_is_caught_up_in_chunks(make_model: MakeModel) -> None:
    engine = free(Engine(make_model(draft_order=PERFECT)))
    run(engine, [2 + i % 20 for i in range(40)], max_tokens=20)
    assert engine.model.draft is not None
    assert max(engine.model.draft.backend.widths) <= 16  # type: ignore[attr-defined]
    assert engine.stats().accepted_tokens_total == engine.stats().drafted_tokens_total > 10


@pytest.mark.parametrize("step", [1, 2, 5])
def test_a_draft_model_that_fails_is_turned_off_and_nobody_notices(
    perfect: Engine, alone: Any, caplog: pytest.LogCaptureFixture, step: int
) -> None:
    assert perfect.model.draft is not None
    backend: Any = perfect.model.draft.backend
    backend.fail = lambda number: MemoryError("gone") if number == step else None
    with caplog.at_level(logging.WARNING):
        deltas = run(perfect, PROMPT)
    assert tokens_of(deltas) == alone(PROMPT, SamplingParams(temperature=0, max_tokens=50, ignore_eos=True)).token_ids
    assert backend.steps == step
    assert "The draft model failed and is off from now on" in caplog.text


def test_a_lookup_that_fails_is_turned_off_and_nobody_notices(
    looking_up: Engine, alone: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("befit.engine.speculation.lookup.PromptLookup.propose", lambda self, most: 1 // 0)
    deltas = run(looking_up, PROMPT)
    params = SamplingParams(temperature=0, max_tokens=50, ignore_eos=True)
    assert tokens_of(deltas) == alone(PROMPT, params, order=1).token_ids
    assert "Prompt lookup failed and is off" in caplog.text


def test_a_draft_model_that_is_often_wrong_is_seldom_asked(make_model: MakeModel) -> None:
    engine = Engine(make_model(draft_order=1, ctx=512, n_blocks=128))
    run(engine, PROMPT, max_tokens=400)
    assert engine.stats().steps_total > 380
    assert engine.stats().drafted_tokens_total < 100
