"""The watermark: the favoured half is a half, and its count tells marked text from other text."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from befit.watermark import favoured, z_score


@given(before=st.integers(0, 200_000))
def test_about_half_of_a_vocabulary_is_favoured(before):
    assert 0.48 < favoured(before, np.arange(50_000)).mean() < 0.52


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32 - 1))
def test_text_that_follows_it_stands_out(seed):
    rng = np.random.default_rng(seed)
    plain = [int(token) for token in rng.integers(0, 50_000, 200)]
    assert abs(z_score(plain)) < 5
    marked = plain[:1]
    while len(marked) < 60:
        token = int(rng.integers(0, 50_000))
        if favoured(marked[-1], [token])[0]:
            marked.append(token)
    assert z_score(marked) > 7


def test_repeating_a_pair_adds_no_evidence():
    assert abs(z_score([1, 2] * 100)) < 2


def test_one_token_says_nothing():
    with pytest.raises(ValueError, match="at least 2"):
        z_score([5])
