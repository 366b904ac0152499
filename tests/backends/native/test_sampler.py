"""The native sampler picks what the oracle picks, from the same logits, seed and history."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from befit.backends.base import SamplerSpec
from befit.backends.native import _native
from befit.backends.native.backend import native_sampler
from befit.backends.reference.sampling import ReferenceSampler, log_softmax, rank_of, survivors, top_of

VOCAB = 300
ISA = _native.isas()[0]

specs = st.builds(
    SamplerSpec,
    temperature=st.sampled_from([0.0, 0.1, 0.7, 1.0, 3.0]),
    top_k=st.sampled_from([0, 1, 5, 40, 1000]),
    top_p=st.sampled_from([1.0, 0.95, 0.5, 0.01]),
    min_p=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    typical_p=st.sampled_from([1.0, 0.9, 0.2]),
    repetition_penalty=st.sampled_from([1.0, 1.3, 0.7]),
    frequency_penalty=st.sampled_from([0.0, 0.5, -1.0]),
    presence_penalty=st.sampled_from([0.0, 1.5]),
    seed=st.integers(0, 2**64 - 1),
    logit_bias=st.lists(st.tuples(st.integers(0, VOCAB - 1), st.floats(-100, 100, width=32)), max_size=3).map(tuple),
    bad_words=st.lists(st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=2).map(tuple), max_size=3).map(tuple),
    min_tokens=st.integers(0, 4),
    stop_ids=st.sampled_from([(), (0, 7)]),
    allowed_ids=st.sampled_from([(), (), (3, 8, 150, 299), (7,)]),
    watermark=st.booleans(),
)


@settings(max_examples=150)
@given(spec=specs, seed=st.integers(0, 2**32 - 1), sharpness=st.sampled_from([0.1, 1, 8]))
def test_it_draws_what_the_oracle_draws(spec, seed, sharpness):
    rng = np.random.default_rng(seed)
    prompt = [int(t) for t in rng.integers(0, VOCAB, 5)]
    native, oracle = native_sampler(spec, prompt), ReferenceSampler(spec, prompt, VOCAB)
    for _ in range(6):
        logits = (rng.standard_normal(VOCAB) * sharpness).astype(np.float32)
        kept = survivors(oracle.adjusted(logits), spec)
        expected = oracle.sample(logits)
        token, finite, *_ = native.sample(ISA, logits, -1)
        assert finite == (expected is not None)
        if not finite:  # every token is banned
            return
        if token != expected:
            # float32 sums may move the end of a nucleus or the drawn point by a rounding error, never further
            assert kept is not None
            assert spec.temperature > 0
            assert token in kept[0] or spec.top_p < 1 or spec.typical_p < 1 or spec.min_p > 0
            return


def test_nearly_all_draws_are_the_same_token():
    rng = np.random.default_rng(4)
    same = 0
    for seed in range(500):
        spec = SamplerSpec(temperature=1.0, top_p=0.9, seed=seed)
        logits = (rng.standard_normal(5000) * 2).astype(np.float32)
        same += native_sampler(spec, []).sample(ISA, logits, -1)[0] == ReferenceSampler(spec, [], 5000).sample(logits)
    assert same >= 498


@settings(max_examples=50)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(0, 20), ties=st.booleans())
def test_log_probabilities_are_of_the_raw_logits(seed, count, ties):
    rng = np.random.default_rng(seed)
    logits = (rng.standard_normal(VOCAB) * 3).astype(np.float32)
    if ties:
        logits = np.round(logits)
    spec = SamplerSpec(temperature=1.0, seed=seed, logit_bias=((3, 50.0),), repetition_penalty=1.2)
    token, _, logprob, rank, top = native_sampler(spec, [1, 2]).sample(ISA, logits, count)
    exact = log_softmax(logits)
    assert abs(logprob - exact[token]) < 1e-4
    assert rank == rank_of(logits, token)
    assert [i for i, _ in top] == [i for i, _ in top_of(exact, count)]
    assert np.allclose([p for _, p in top], [exact[i] for i, _ in top], atol=1e-4)


def test_rows_that_are_not_finite_say_so():
    for bad in (np.nan, np.inf, -np.inf):
        logits = np.zeros(VOCAB, np.float32)
        logits[123] = bad
        assert native_sampler(SamplerSpec(), []).sample(ISA, logits, -1)[1] is False


def test_ties_go_to_the_lower_id():
    logits = np.zeros(VOCAB, np.float32)
    logits[[40, 200]] = 2
    assert native_sampler(SamplerSpec(), []).sample(ISA, logits, -1)[0] == 40
