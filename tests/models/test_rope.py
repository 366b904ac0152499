"""Rotary frequencies and their stretches."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from befit.models.rope import RopeScaling, llama3, make_rope, plain, yarn, yarn_attention_factor

DIMS = st.integers(1, 128).map(lambda n: 2 * n)
BASES = st.floats(100.0, 1e7)
FACTORS = st.floats(1.0, 64.0)
CONTEXTS = st.integers(512, 131072)


@given(DIMS, BASES)
def test_plain_frequencies_fall_from_one_by_a_constant_ratio(dim, base):
    freqs = plain(dim, base)
    assert freqs[0] == 1.0
    assert len(freqs) == dim // 2
    np.testing.assert_allclose(freqs[1:] / freqs[:-1], base ** (-2 / dim))


@given(DIMS, BASES, FACTORS)
def test_linear_slows_every_pair_alike(dim, base, factor):
    rope = make_rope(dim, base, RopeScaling(kind="linear", factor=factor))
    np.testing.assert_allclose(rope.inv_freq, plain(dim, base) / factor)
    assert rope.scale == 1.0


@given(DIMS, BASES, FACTORS, CONTEXTS)
def test_llama3_keeps_fast_pairs_slows_slow_ones_and_mixes_between(dim, base, factor, context):
    freqs = plain(dim, base)
    stretched = llama3(freqs, factor, 1.0, 4.0, context)
    turns = context * freqs / (2 * math.pi)
    np.testing.assert_allclose(stretched[turns > 4], freqs[turns > 4])
    np.testing.assert_allclose(stretched[turns < 1], freqs[turns < 1] / factor)
    ratio = freqs / stretched
    assert (ratio >= 1 - 1e-9).all()
    assert (ratio <= factor * (1 + 1e-9)).all()


@given(DIMS, BASES, FACTORS, CONTEXTS)
def test_yarn_lies_between_the_plain_and_the_linear_frequencies(dim, base, factor, context):
    freqs = plain(dim, base)
    stretched = yarn(freqs, base, factor, context)
    assert (stretched <= freqs * (1 + 1e-9)).all()
    assert (stretched >= freqs / factor * (1 - 1e-9)).all()
    assert (np.diff(stretched) <= 0).all()


def test_yarn_of_qwen2_5_coder_as_its_authors_recommend():
    """Factor 4 over 32768, base 1e6, heads of 128: the first pairs turn as before, the last four times slower."""
    freqs = plain(128, 1e6)
    stretched = yarn(freqs, 1e6, 4.0, 32768)
    np.testing.assert_allclose(stretched[:20], freqs[:20])
    np.testing.assert_allclose(stretched[45:], freqs[45:] / 4)
    assert yarn_attention_factor(4.0) == pytest.approx(1.1386294361)


def test_the_attention_factor_goes_into_the_scale_of_cos_and_sin():
    scaling = RopeScaling(kind="yarn", factor=8.0, original_context=4096, attention_factor=0.5)
    assert make_rope(64, 1e4, scaling).scale == pytest.approx(0.5 * (0.1 * math.log(8) + 1))
    assert yarn_attention_factor(1.0) == 1.0


def test_no_scaling_leaves_the_plain_frequencies():
    rope = make_rope(64, 1e4, RopeScaling(), interleaved=True)
    assert rope.interleaved
    np.testing.assert_array_equal(rope.inv_freq, plain(64, 1e4))
