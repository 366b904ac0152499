"""The engine over the fake model: one request at a time, its ends, its scores, its errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from befit.engine.core import Engine, Event
from befit.engine.load import LoadedModel
from befit.engine.outputs import Delta
from befit.engine.request import Request
from befit.errors import ContextExceeded, EngineDead, InvalidRequest, NonFiniteLogits, OutOfDeviceMemory, RequestFailed
from befit.sampling import SamplingParams

MakeModel = Callable[..., LoadedModel]
EOS, POISON = 0, 1
PROMPT = [5, 6, 7, 8, 9, 10]


def run(engine: Engine, limit: int = 500) -> list[Event]:
    """Step until nothing is left, checking the books after each step."""
    events: list[Event] = []
    for _ in range(limit):
        if not engine.has_work or not engine.alive:
            return events
        events += engine.step()
        engine.scheduler.check_integrity()
    raise AssertionError("the engine does not come to an end")


def deltas_of(events: list[Event], request: Request, index: int = 0) -> list[Delta]:
    return [delta for owner, delta in events if owner is request and delta.index == index]


def tokens_of(deltas: list[Delta]) -> list[int]:
    return [token for delta in deltas for token in delta.token_ids]


def text_of(deltas: list[Delta]) -> str:
    return "".join(delta.text for delta in deltas)


def greedy(**wishes: Any) -> SamplingParams:
    return SamplingParams(**{"temperature": 0, "max_tokens": 12, "ignore_eos": True, **wishes})


@pytest.fixture
def engine(make_model: MakeModel) -> Engine:
    return Engine(make_model())


def test_a_request_gives_a_delta_a_token_and_ends_at_max_tokens(engine: Engine, alone: Any) -> None:
    request = engine.add_request(PROMPT, greedy())
    deltas = deltas_of(run(engine), request)
    expected = alone(PROMPT, greedy())
    assert [len(delta.token_ids) for delta in deltas] == [1] * 12
    assert (tokens_of(deltas), text_of(deltas)) == (expected.token_ids, expected.text)
    assert [delta.finish_reason for delta in deltas] == [None] * 11 + ["length"]
    assert engine.scheduler.pool.n_used == 0


def test_without_max_tokens_the_context_is_the_limit(engine: Engine) -> None:
    request = engine.add_request(PROMPT, greedy(max_tokens=None))
    assert len(tokens_of(deltas_of(run(engine), request))) == 64 - len(PROMPT)


def test_end_of_sequence_stops_and_shows_no_text(engine: Engine, alone: Any) -> None:
    params = greedy(ignore_eos=False, max_tokens=50, temperature=1, seed=4)
    request = engine.add_request(PROMPT, params)
    deltas = deltas_of(run(engine), request)
    expected = alone(PROMPT, params)
    assert expected.token_ids[-1] == EOS
    assert (tokens_of(deltas), text_of(deltas)) == (expected.token_ids, expected.text)
    assert (deltas[-1].finish_reason, deltas[-1].stop_reason) == ("stop", None)


def test_a_stop_token_id_is_named_as_the_reason(engine: Engine, alone: Any) -> None:
    third = alone(PROMPT, greedy()).token_ids[2]
    request = engine.add_request(PROMPT, greedy(stop_token_ids=[third]))
    last = deltas_of(run(engine), request)[-1]
    assert (last.finish_reason, last.stop_reason, last.text) == ("stop", third, "")


def test_min_tokens_keeps_stop_tokens_and_strings_away(engine: Engine, alone: Any) -> None:
    plain = alone(PROMPT, greedy())
    params = greedy(min_tokens=8, stop=[plain.text[1]], stop_token_ids=[plain.token_ids[2]])
    request = engine.add_request(PROMPT, params)
    deltas = deltas_of(run(engine), request)
    expected = alone(PROMPT, params)
    assert (tokens_of(deltas), text_of(deltas)) == (expected.token_ids, expected.text)
    assert len(tokens_of(deltas)) >= 8


def test_zero_tokens_and_no_scores_need_no_step(engine: Engine) -> None:
    request = engine.add_request(PROMPT, greedy(max_tokens=0, n=2))
    events = run(engine)
    assert [(delta.index, delta.token_ids, delta.finish_reason) for _, delta in events] == [
        (0, [], "length"),
        (1, [], "length"),
    ]
    assert request.finished
    assert engine.stats().steps_total == 0


@pytest.mark.parametrize("max_tokens", [0, 3])
def test_prompt_scores_cover_every_position_even_of_a_cached_prompt(
    engine: Engine, score_of: Any, max_tokens: int
) -> None:
    prompt = [2 + i % 20 for i in range(40)]
    engine.add_request(prompt, greedy())
    run(engine)
    request = engine.add_request(prompt, greedy(max_tokens=max_tokens, prompt_logprobs=2, n=2))
    deltas = [delta for _, delta in run(engine)]
    scores = deltas[0].prompt_logprobs
    assert scores is not None
    assert scores[0] is None
    for i, entry in enumerate(scores[1:], 1):
        assert entry is not None
        assert (entry.token_id, entry.logprob) == (prompt[i], score_of(prompt[:i], prompt[i]))
        assert len(entry.top) == 2
    assert len(scores) == len(prompt)
    assert all(delta.prompt_logprobs is None for delta in deltas[1:])
    assert request.produced == 2 * max_tokens


def test_log_probabilities_come_with_their_tokens(engine: Engine, score_of: Any) -> None:
    request = engine.add_request(PROMPT, greedy(logprobs=3))
    history = list(PROMPT)
    for delta in deltas_of(run(engine), request):
        assert delta.logprobs is not None
        [entry] = delta.logprobs
        assert entry.token_id == delta.token_ids[0]
        assert entry.logprob == score_of(history, entry.token_id)
        assert len(entry.top) == 3
        history.append(entry.token_id)


@pytest.mark.parametrize("prefix_cache", [True, False])
def test_n_continuations_are_what_n_seeds_give(make_model: MakeModel, alone: Any, prefix_cache: bool) -> None:
    engine = Engine(make_model(prefix_cache=prefix_cache))
    params = SamplingParams(n=3, seed=11, max_tokens=9)
    request = engine.add_request([2 + i for i in range(13)], params)
    events = run(engine)
    for index in range(3):
        expected = alone([2 + i for i in range(13)], params, number=index)
        deltas = deltas_of(events, request, index)
        assert (tokens_of(deltas), text_of(deltas)) == (expected.token_ids, expected.text)
        assert deltas[-1].finish_reason == expected.finish_reason


def test_n_continuations_compute_the_full_pages_of_their_prompt_once(engine: Engine) -> None:
    engine.add_request([2 + i for i in range(13)], greedy(n=3, max_tokens=1))
    run(engine)
    assert sum(engine.model.backend.widths) == 13 + 2  # type: ignore[attr-defined]


def test_a_repeated_prompt_reports_its_cached_tokens_once(engine: Engine) -> None:
    engine.add_request(PROMPT, greedy())
    run(engine)
    request = engine.add_request(PROMPT, greedy())
    assert [delta.cached_tokens for delta in deltas_of(run(engine), request)] == [4] + [0] * 11
    assert engine.stats().cached_tokens_total == 4


def test_logits_that_are_not_finite_fail_one_request_alone(engine: Engine, alone: Any) -> None:
    bad = engine.add_request([5, 6, 7, 8, POISON, 9], greedy(n=2))
    good = engine.add_request(PROMPT, greedy())
    events = run(engine)
    for index in range(2):
        [delta] = deltas_of(events, bad, index)
        assert delta.finish_reason == "error"
        assert isinstance(delta.error, NonFiniteLogits)
    assert tokens_of(deltas_of(events, good)) == alone(PROMPT, greedy()).token_ids


def test_pages_of_a_request_that_failed_are_not_reused(engine: Engine) -> None:
    prompt = [5, 6, 7, 8, 5, 6, 7, 8, 5, 6, 7, 8, 5, 6, 7, 8, POISON]
    engine.add_request(prompt, greedy())
    engine.step()
    assert engine.scheduler.index
    run(engine)
    assert not engine.scheduler.index


def test_a_failed_step_fails_its_requests_and_the_next_ones_work(engine: Engine, alone: Any) -> None:
    engine.model.backend.fail = lambda step: MemoryError("no more") if step == 3 else None  # type: ignore[attr-defined]
    lost = engine.add_request(PROMPT, greedy())
    events = run(engine)
    last = deltas_of(events, lost)[-1]
    assert last.finish_reason == "error"
    assert isinstance(last.error, RequestFailed)
    assert "no more" in str(last.error)
    later = engine.add_request(PROMPT, greedy())
    assert tokens_of(deltas_of(run(engine), later)) == alone(PROMPT, greedy()).token_ids


def test_a_card_without_room_fails_the_newest_request_and_the_step_is_tried_again(engine: Engine, alone: Any) -> None:
    full = (3, 4, 7)
    engine.model.backend.fail = lambda step: OutOfDeviceMemory("full") if step in full else None  # type: ignore[attr-defined]
    first = engine.add_request(PROMPT, greedy())
    others = [engine.add_request([9, 8, 7, 6, 5], greedy()) for _ in range(3)]
    events = run(engine)
    for failed in others:
        last = deltas_of(events, failed)[-1]
        assert isinstance(last.error, OutOfDeviceMemory)
    assert tokens_of(deltas_of(events, first)) == alone(PROMPT, greedy()).token_ids
    assert engine.alive
    assert engine.scheduler.pool.n_used == 0


def test_three_failed_steps_in_a_row_are_the_end(make_model: MakeModel) -> None:
    engine = Engine(make_model(max_seqs=1, prefix_cache=False))
    engine.model.backend.fail = lambda step: OSError("gone")  # type: ignore[attr-defined]
    requests = [engine.add_request(PROMPT, greedy()) for _ in range(5)]
    events = run(engine)
    errors = [deltas_of(events, request)[-1].error for request in requests]
    assert [type(error) for error in errors] == [RequestFailed] * 3 + [EngineDead] * 2
    assert not engine.alive
    with pytest.raises(EngineDead):
        engine.step()
    with pytest.raises(EngineDead):
        engine.add_request(PROMPT, greedy())
    engine.scheduler.check_integrity()
    assert engine.scheduler.pool.n_used == 0


def test_rules_that_the_backend_refuses_fail_one_request(engine: Engine) -> None:
    bad = engine.add_request(PROMPT, greedy(top_k=13, n=2))
    good = engine.add_request(PROMPT, greedy())
    events = run(engine)
    assert isinstance(deltas_of(events, bad)[-1].error, RequestFailed)
    assert deltas_of(events, good)[-1].finish_reason == "length"


def test_abort_frees_the_pages_at_once_and_says_so(engine: Engine) -> None:
    request = engine.add_request(PROMPT, greedy(n=2))
    engine.step()
    events = engine.abort(request.id)
    assert [delta.finish_reason for _, delta in events] == ["abort", "abort"]
    assert engine.scheduler.pool.n_used == 0
    assert engine.abort(request.id) == engine.abort("never seen") == []
    assert not engine.has_work


def test_a_used_request_id_is_refused(engine: Engine) -> None:
    engine.add_request(PROMPT, greedy(), request_id="a")
    with pytest.raises(InvalidRequest, match="'a' is in use"):
        engine.add_request(PROMPT, greedy(), request_id="a")
    run(engine)
    engine.add_request(PROMPT, greedy(), request_id="a")


@pytest.mark.parametrize(
    ("prompt", "wishes", "error", "param"),
    [
        ([], {}, InvalidRequest, "prompt"),
        ([5, 999], {}, InvalidRequest, "prompt"),
        ([-1], {}, InvalidRequest, "prompt"),
        (["a"], {}, InvalidRequest, "prompt"),
        ([5] * 64, {}, ContextExceeded, "prompt"),
        ([5] * 60, {"max_tokens": 5}, ContextExceeded, "max_tokens"),
        ([5] * 60, {"max_tokens": None, "min_tokens": 5}, ContextExceeded, "prompt"),
        ([5], {"logit_bias": {999: 1.0}}, InvalidRequest, "logit_bias"),
        ([5], {"stop_token_ids": [999]}, InvalidRequest, "stop_token_ids"),
        ([5], {"bad_words": [" "]}, InvalidRequest, "bad_words"),
    ],
)
def test_wrong_requests_are_refused_naming_the_field(
    engine: Engine, prompt: list[int], wishes: dict[str, Any], error: type[InvalidRequest], param: str
) -> None:
    with pytest.raises(error) as caught:
        engine.add_request(prompt, greedy(**wishes))
    assert caught.value.param == param
    assert not engine.has_work


def test_a_full_context_can_be_scored_but_not_continued(engine: Engine) -> None:
    engine.add_request([5] * 64, greedy(max_tokens=0, prompt_logprobs=0))
    [(_, delta)] = run(engine)
    assert delta.prompt_logprobs is not None
    assert len(delta.prompt_logprobs) == 64


def test_seeds_are_drawn_apart_and_given_ones_count_up(engine: Engine) -> None:
    drawn = engine.add_request(PROMPT, greedy(n=2)).sequences
    given = engine.add_request(PROMPT, greedy(n=2, seed=2**64 - 1)).sequences
    assert drawn[0].spec.seed != drawn[1].spec.seed
    assert [sequence.spec.seed for sequence in given] == [2**64 - 1, 0]


def test_bad_words_are_banned_at_the_start_and_after_a_space(engine: Engine) -> None:
    spec = engine.add_request(PROMPT, greedy(bad_words=["ab", " b"])).sequences[0].spec
    encode = engine.model.tokenizer.encode
    assert spec.bad_words == tuple(tuple(encode(text)) for text in ("ab", " ab", "b", " b"))
