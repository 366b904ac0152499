"""A watermark in sampled text: after each token half of the vocabulary is made a little likelier.

Which half is told by a hash of the token before, so whoever knows the hash can count how often a text follows it. After
Kirchenbauer et al., A Watermark for Large Language Models (arXiv 2301.10226), with their "soft" rule, gamma = 1/2. Two
hashes stand for their random permutation, so that no half has to be drawn at each step.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import sqrt

import numpy as np
import numpy.typing as npt

DELTA = 2.0
"""What is added to the logit of a token in the favoured half."""

_MASK = 2**64 - 1


def favoured(before: int, tokens: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Which of `tokens` [n] are in the favoured half after the token `before`: the top bit of a splitmix64 hash."""
    z = np.asarray(tokens, np.uint64) + np.uint64((before + 1) * 0x9E3779B97F4A7C15 & _MASK)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    favours: npt.NDArray[np.bool_] = (z >> np.uint64(63)) != 0
    return favours


def z_score(tokens: Sequence[int]) -> float:
    """How many standard deviations above chance a text follows the watermark; over 4 is no accident.

    tokens: of the text, at least two. A pair of tokens counts once, however often the text repeats it.
    """
    pairs = set(pairwise(tokens))
    if not pairs:
        raise ValueError(f"{len(tokens)} tokens say nothing about a watermark; give at least 2.")
    hits = sum(bool(favoured(before, [token])[0]) for before, token in pairs)
    return (hits - len(pairs) / 2) / sqrt(len(pairs) / 4)
