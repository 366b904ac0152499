"""The sampler's oracle, filter by filter, against the definitions in `SamplingParams`."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from befit.backends.base import SamplerSpec
from befit.backends.reference.sampling import (
    ReferenceSampler,
    log_softmax,
    rank_of,
    survivors,
    top_of,
    uniform,
)

VOCAB = 12
LOGITS = st.lists(st.floats(-20, 20, width=32), min_size=VOCAB, max_size=VOCAB).map(lambda x: np.array(x, np.float32))
SPECS = st.builds(
    SamplerSpec,
    temperature=st.floats(0.1, 5),
    top_k=st.integers(0, VOCAB + 3),
    top_p=st.floats(0.05, 1),
    min_p=st.floats(0, 1),
    typical_p=st.floats(0.05, 1),
    seed=st.integers(0, 2**64 - 1),
)


def sampler(prompt=(), output=(), **rules):
    made = ReferenceSampler(SamplerSpec(**rules), list(prompt), VOCAB)
    made.output = list(output)
    return made


def kept(probabilities, **rules):
    """The ids that survive, likeliest first, of logits that mean these probabilities."""
    return survivors(np.log(np.array(probabilities)), SamplerSpec(temperature=1.0, **rules))[0].tolist()


def test_splitmix64_starts_as_its_published_stream_for_seed_zero():
    stream = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert [uniform(0, t) for t in range(3)] == [(z >> 11) * 2.0**-53 for z in stream]


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**31))
def test_uniforms_are_at_least_zero_and_below_one(seed, index):
    assert 0 <= uniform(seed, index) < 1


@given(LOGITS)
def test_greedy_takes_the_largest_logit_and_the_lower_id_of_equals(logits):
    assert sampler(temperature=0.0, top_p=0.1, seed=3).sample(logits) == int(np.argmax(logits))


@given(LOGITS, st.integers(0, 2**64 - 1), st.floats(0.01, 50))
def test_top_k_of_one_is_greedy_at_any_temperature_and_seed(logits, seed, temperature):
    assert sampler(temperature=temperature, top_k=1, seed=seed).sample(logits) == int(np.argmax(logits))


@settings(max_examples=60)
@given(LOGITS, SPECS)
def test_whatever_the_filters_some_of_the_likeliest_survive(logits, spec):
    ids, p = survivors(logits.astype(np.float64), spec)
    assert len(ids) >= 1
    assert len(set(ids.tolist())) == len(ids)
    assert (np.diff(p) <= 0).all()
    assert p.sum() == pytest.approx(1)


@settings(max_examples=60)
@given(LOGITS, SPECS)
def test_each_filter_only_removes(logits, spec):
    def ids(**rules):
        found = survivors(logits.astype(np.float64), SamplerSpec(temperature=spec.temperature, **rules))
        return set(found[0].tolist())

    everything = ids(top_k=spec.top_k, top_p=spec.top_p, min_p=spec.min_p, typical_p=spec.typical_p)
    assert everything <= ids(top_k=spec.top_k, top_p=spec.top_p, min_p=spec.min_p)
    assert ids(top_k=spec.top_k, top_p=spec.top_p, min_p=spec.min_p) <= ids(top_k=spec.top_k, top_p=spec.top_p)
    assert ids(top_k=spec.top_k, top_p=spec.top_p) <= ids(top_k=spec.top_k)


def test_top_k_keeps_the_k_likeliest_and_the_lower_id_of_equals():
    assert kept([0.1, 0.3, 0.3, 0.3], top_k=2) == [1, 2]
    assert kept([0.1, 0.3, 0.3, 0.3], top_k=0) == kept([0.1, 0.3, 0.3, 0.3], top_k=9) == [1, 2, 3, 0]


def test_top_p_keeps_the_fewest_whose_mass_reaches_p():
    assert kept([0.5, 0.25, 0.125, 0.125], top_p=0.4) == [0]
    assert kept([0.5, 0.25, 0.125, 0.125], top_p=0.7) == [0, 1]
    assert kept([0.5, 0.25, 0.125, 0.125], top_p=0.8) == [0, 1, 2]


def test_top_p_counts_the_mass_that_top_k_left():
    assert kept([0.4, 0.2, 0.2, 0.2], top_k=2, top_p=0.65) == [0]  # 0.4 of the 0.6 that two tokens hold


def test_min_p_is_relative_to_the_likeliest():
    assert kept([0.5, 0.3, 0.15, 0.05], min_p=0.25) == [0, 1, 2]
    assert kept([0.5, 0.3, 0.15, 0.05], min_p=1.0) == [0]


def test_typical_p_prefers_tokens_as_surprising_as_the_distribution_is():
    # Entropy 1.47 nats; surprises 0.69, 2.08 (three times) and 2.77 (twice): the three are nearest, then the likeliest.
    p = [0.5, 0.125, 0.125, 0.125, 0.0625, 0.0625]
    assert kept(p, typical_p=0.1) == [1]
    assert kept(p, typical_p=0.3) == [1, 2, 3]
    assert kept(p, typical_p=0.8) == [0, 1, 2, 3]


def test_temperature_divides_the_logits():
    logits = np.array([2.0, 0.0], np.float64)
    for temperature in (0.5, 1.0, 4.0):
        _, p = survivors(logits, SamplerSpec(temperature=temperature))
        assert p[0] / p[1] == pytest.approx(np.exp(2.0 / temperature))


def test_repetition_penalty_covers_prompt_and_output_by_sign():
    x = sampler(prompt=[0, 1], output=[1, 2], repetition_penalty=2.0).adjusted(np.array([4, -4, 1, 4] + [0] * 8))
    assert x[:4].tolist() == [2, -8, 0.5, 4]


def test_frequency_and_presence_penalties_cover_the_output_only():
    made = sampler(prompt=[3, 3], output=[1, 1, 2], frequency_penalty=0.5, presence_penalty=0.25)
    assert made.adjusted(np.zeros(VOCAB))[:4].tolist() == [0, -1.25, -0.75, 0]


def test_biases_come_after_penalties():
    made = sampler(output=[1], repetition_penalty=2.0, frequency_penalty=1.0, logit_bias=((1, 10.0), (4, -3.0)))
    x = made.adjusted(np.full(VOCAB, 8.0))
    assert x[[1, 4, 5]].tolist() == [8 / 2 - 1 + 10, 5, 8]


def test_a_bad_word_is_banned_where_its_front_part_ends_the_output():
    rules = {"bad_words": ((5,), (6, 7), (6, 6, 8))}

    def banned(prompt, output):
        return np.flatnonzero(np.isinf(sampler(prompt, output, **rules).adjusted(np.zeros(VOCAB)))).tolist()

    assert banned([], []) == [5]
    assert banned([6], []) == [5]  # the prompt is not the model's doing
    assert banned([], [6]) == [5, 7]
    assert banned([], [1, 6, 6]) == [5, 7, 8]
    assert banned([6], [6]) == [5, 7]
    assert banned([], [6, 1]) == [5]


def test_stop_tokens_cannot_come_before_min_tokens():
    logits = np.zeros(VOCAB, np.float32)
    logits[[2, 3]] = 9
    made = sampler(temperature=0.0, min_tokens=2, stop_ids=(2, 3))
    assert [made.sample(logits) for _ in range(4)] == [0, 0, 2, 2]


def test_nothing_left_to_draw_is_reported_and_not_remembered():
    made = sampler(temperature=1.0, min_tokens=1, stop_ids=tuple(range(VOCAB)))
    assert made.sample(np.zeros(VOCAB, np.float32)) is None
    assert made.output == []


def test_extreme_values_stay_numbers():
    logits = np.array([3e38, -3e38] + [0] * 10, np.float32)
    assert sampler([0, 1], temperature=1e-300, repetition_penalty=1e-9, logit_bias=((0, 100.0),)).sample(logits) == 0


@given(LOGITS, SPECS, st.lists(st.integers(0, VOCAB - 1), max_size=5))
def test_a_seed_and_an_index_decide_the_draw(logits, spec, output):
    first, second = (ReferenceSampler(spec, [], VOCAB) for _ in range(2))
    first.output, second.output = list(output), list(output)
    assert first.sample(logits) == second.sample(logits)
    assert first.output[:-1] == output


def test_draws_follow_the_distribution():
    """Chi-square over 20000 draws of one seed's stream; 18.5 is the 99.5 % point for 6 degrees of freedom."""
    p = np.array([0.4, 0.2, 0.15, 0.1, 0.08, 0.05, 0.02])
    made = ReferenceSampler(SamplerSpec(temperature=1.0, seed=2024), [], len(p))
    n = 20000
    ids, q = survivors(np.log(p), made.spec)
    mass = np.cumsum(q)
    drawn = ids[np.searchsorted(mass, [uniform(2024, t) for t in range(n)], side="right")]
    counts = np.bincount(drawn, minlength=len(p))
    assert (((counts - n * p) ** 2) / (n * p)).sum() < 18.5
    assert [made.sample(np.log(p).astype(np.float32)) for _ in range(50)] == drawn[:50].tolist()


def test_different_seeds_draw_differently():
    logits = np.zeros(VOCAB, np.float32)
    streams = set()
    for seed in range(20):
        made = sampler(temperature=1.0, seed=seed)
        streams.add(tuple(made.sample(logits) for _ in range(12)))
    assert len(streams) == 20


@given(LOGITS)
def test_rank_counts_from_one_in_the_order_of_top(logits):
    assert np.exp(log_softmax(logits)).sum() == pytest.approx(1)
    top = top_of(logits, VOCAB)
    assert [rank_of(logits, token) for token, _ in top] == list(range(1, VOCAB + 1))
    assert top_of(logits, 3) == top[:3]


@pytest.mark.parametrize(
    "rules", [{"logit_bias": ((VOCAB, 1.0),)}, {"stop_ids": (-1,)}, {"bad_words": ((1, 99),)}, {"prompt": [VOCAB]}]
)
def test_ids_outside_the_vocabulary_are_refused(rules):
    with pytest.raises(ValueError, match=r"outside the vocabulary of 12"):
        sampler(**rules)
