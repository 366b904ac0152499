"""The device's sampler picks what the oracle picks, for rows side by side and drafts ahead of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from befit.backends.base import SamplerSpec  # noqa: E402
from befit.backends.cuda.sampler import TorchSampler  # noqa: E402
from befit.backends.cuda.sampling import Row, sample, score, send_masks  # noqa: E402
from befit.backends.reference.sampling import ReferenceSampler, log_softmax, rank_of, survivors, top_of  # noqa: E402

VOCAB = 300
CPU = torch.device("cpu")

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


def draw(logits, rows, masks=None):
    return sample(torch.from_numpy(logits), rows, masks).tolist()


@settings(max_examples=60)
@given(specs=st.lists(specs, min_size=1, max_size=4), seed=st.integers(0, 2**32 - 1), sharpness=st.sampled_from([1, 8]))
def test_it_draws_what_the_oracle_draws(specs, seed, sharpness):
    rng = np.random.default_rng(seed)
    prompt = [int(t) for t in rng.integers(0, VOCAB, 5)]
    ours = [TorchSampler(spec, prompt, VOCAB, CPU) for spec in specs]
    oracles = [ReferenceSampler(spec, prompt, VOCAB) for spec in specs]
    for _ in range(4):
        logits = (rng.standard_normal((len(specs), VOCAB)) * sharpness).astype(np.float32)
        tokens = draw(logits, [Row(sampler, []) for sampler in ours])
        for i, (sampler, oracle) in enumerate(zip(ours, oracles, strict=True)):
            kept = survivors(oracle.adjusted(logits[i]), oracle.spec)
            expected = oracle.sample(logits[i])
            if expected is None:  # every token is banned
                assert tokens[i] == -1
                return
            if tokens[i] != expected:
                # the order of a sum may move the end of a nucleus or the drawn point by a rounding error, no further
                assert kept is not None
                assert oracle.spec.temperature > 0
                return
            sampler.accept(expected)


def test_nearly_all_draws_are_the_same_token():
    rng = np.random.default_rng(4)
    logits = (rng.standard_normal((200, 5000)) * 2).astype(np.float32)
    all_specs = [SamplerSpec(temperature=1.0, top_p=0.9, typical_p=0.97, seed=seed) for seed in range(200)]
    tokens = draw(logits, [Row(TorchSampler(spec, [], 5000, CPU), []) for spec in all_specs])
    expected = [ReferenceSampler(spec, [], 5000).sample(row) for spec, row in zip(all_specs, logits, strict=True)]
    assert sum(a == b for a, b in zip(tokens, expected, strict=True)) >= 198


@settings(max_examples=40)
@given(spec=specs, seed=st.integers(0, 2**32 - 1))
def test_a_row_behind_drafts_is_that_of_a_sampler_that_took_them(spec, seed):
    rng = np.random.default_rng(seed)
    drafts = [int(t) for t in rng.integers(0, VOCAB, 3)]
    logits = rng.standard_normal((1, VOCAB)).astype(np.float32)
    ahead, moved = TorchSampler(spec, [1, 2], VOCAB, CPU), TorchSampler(spec, [1, 2], VOCAB, CPU)
    for token in drafts:
        moved.accept(token)
    assert draw(logits, [Row(ahead, drafts)]) == draw(logits, [Row(moved, [])])


@settings(max_examples=40)
@given(allowed=st.sets(st.integers(0, VOCAB - 1), min_size=1), seed=st.integers(0, 2**32), warm=st.booleans())
def test_masks_confine_the_rows_that_have_one(allowed, seed, warm):
    bits = np.zeros((1, -(-VOCAB // 32)), np.uint32)
    for token in allowed:
        bits[0, token // 32] |= np.uint32(1 << token % 32)
    spec = SamplerSpec(temperature=1.0 if warm else 0.0, top_k=3, seed=seed)
    logits = (np.random.default_rng(seed).standard_normal((2, VOCAB)) * 3).astype(np.float32)
    rows = [Row(TorchSampler(spec, [], VOCAB, CPU), [], mask) for mask in (0, -1)]
    confined, free = draw(logits, rows, send_masks(bits, CPU))
    mask = np.zeros(VOCAB, bool)
    mask[list(allowed)] = True
    assert confined == ReferenceSampler(spec, [], VOCAB).sample(logits[0], mask)
    assert free == ReferenceSampler(spec, [], VOCAB).sample(logits[1])


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(0, 20), ties=st.booleans())
def test_log_probabilities_and_ranks_are_of_the_raw_logits(seed, count, ties):
    rng = np.random.default_rng(seed)
    logits = (rng.standard_normal((3, VOCAB)) * 3).astype(np.float32)
    if ties:
        logits = np.round(logits)
    tokens = rng.integers(0, VOCAB, 3)
    scores = score(torch.from_numpy(logits), torch.from_numpy(tokens), count)
    for i, token in enumerate(tokens.tolist()):
        assert abs(scores.logprob[i].item() - log_softmax(logits[i])[token]) < 1e-6
        assert scores.rank[i].item() == rank_of(logits[i], token)
        assert scores.ids[i].tolist() == [each for each, _ in top_of(logits[i], count)]


def test_ids_outside_the_vocabulary_are_refused():
    with pytest.raises(ValueError, match="token id 300 is outside the vocabulary"):
        TorchSampler(SamplerSpec(stop_ids=(300,)), [], VOCAB, CPU)
