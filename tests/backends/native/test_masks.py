"""Rows that are confined to some tokens sample only those, in both backends alike, and wait for late masks."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from befit.backends.base import NON_FINITE, OK, SamplerSpec, TokenMasks
from befit.backends.native import _native
from befit.backends.native.backend import native_sampler
from befit.backends.reference.sampling import ReferenceSampler
from support.steps import Seq, make_batch
from support.tiny import tiny_model

VOCAB = 80
ISA = _native.isas()[0]


def bits_of(allowed: list[set[int]]) -> np.ndarray:
    bits = np.zeros((len(allowed), -(-VOCAB // 32)), np.uint32)
    for row, tokens in enumerate(allowed):
        for token in tokens:
            bits[row, token // 32] |= np.uint32(1 << token % 32)
    return bits


@settings(max_examples=100)
@given(
    allowed=st.sets(st.integers(0, VOCAB - 1), min_size=1),
    temperature=st.sampled_from([0.0, 1.0, 5.0]),
    top_k=st.sampled_from([0, 3]),
    top_p=st.sampled_from([1.0, 0.6]),
    seed=st.integers(0, 2**32),
)
def test_the_sampler_draws_what_the_oracle_draws(allowed, temperature, top_k, top_p, seed):
    spec = SamplerSpec(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
    logits = (np.random.default_rng(seed).standard_normal(VOCAB) * 3).astype(np.float32)
    mask = np.zeros(VOCAB, bool)
    mask[list(allowed)] = True
    token, finite, *_ = native_sampler(spec, []).sample(ISA, logits, -1, bits_of([allowed])[0])
    assert finite
    assert token in allowed
    expected = ReferenceSampler(spec, [], VOCAB).sample(logits, mask)
    assert token == expected or (temperature > 0 and expected in allowed)  # rounding may move a draw to a neighbour


def test_logprobs_are_the_models_own_whatever_is_allowed():
    logits = np.linspace(0, 8, VOCAB, dtype=np.float32)
    plain = native_sampler(SamplerSpec(), []).sample(ISA, logits, 5)
    masked = native_sampler(SamplerSpec(), []).sample(ISA, logits, 5, bits_of([{3, 7}])[0])
    assert masked[0] == 7
    assert masked[4] == plain[4]
    assert masked[3] == VOCAB - 7


@pytest.fixture(params=["native", "reference"])
def backend(request, load):
    return load(tiny_model("llama"), request.param)


def step_of(backend, masks):
    spec = SamplerSpec(temperature=1.0, seed=3)
    samplers = [backend.new_sampler(spec, []) for _ in range(3)]
    batch = make_batch(
        backend.block_size, [(Seq([i]), [5, 6, 7]) for i in range(3)], rows="last", samplers=samplers, logprobs=[-1] * 3
    )
    batch.masks = masks
    return batch


def test_a_row_without_a_mask_is_free(backend):
    ready = Future()
    ready.set_result(None)
    free = backend.step(step_of(backend, None)).tokens.tolist()
    other = {(free[0] + 1) % VOCAB, (free[0] + 2) % VOCAB}
    masks = TokenMasks(bits_of([other, set()]), np.array([0, -1, 1], np.int32), ready)
    result = backend.step(step_of(backend, masks))
    assert result.tokens[0] in other
    assert result.tokens[1] == free[1]
    assert result.status.tolist() == [OK, OK, NON_FINITE]


def test_a_step_waits_for_its_masks(backend):
    ready = Future()
    masks = TokenMasks(bits_of([set()]), np.array([0, -1, -1], np.int32), ready)
    results = []
    thread = threading.Thread(target=lambda: results.append(backend.step(step_of(backend, masks))))
    thread.start()
    time.sleep(0.05)
    assert not results
    masks.bits[:] = bits_of([{9}])
    ready.set_result(None)
    thread.join(60)
    assert results[0].tokens[0] == 9


def test_a_failed_mask_does_not_stop_the_step(backend):
    ready = Future()
    ready.set_exception(RuntimeError("lost"))
    masks = TokenMasks(bits_of([set()]), np.array([0, -1, -1], np.int32), ready)
    assert backend.step(step_of(backend, masks)).status.tolist() == [NON_FINITE, OK, OK]


def test_masks_that_do_not_fit_are_refused(load):
    backend = load(tiny_model("llama"), "native")
    ready = Future()
    ready.set_result(None)
    for bits, index in [(np.zeros((1, 2), np.uint32), [0, 0, 0]), (np.zeros((1, 3), np.uint32), [0, 1, 0])]:
        with pytest.raises(ValueError, match="mask"):
            backend.step(step_of(backend, TokenMasks(bits, np.array(index, np.int32), ready)))
