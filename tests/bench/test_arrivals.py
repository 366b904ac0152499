"""Poisson arrivals."""

from __future__ import annotations

import math
from itertools import islice, pairwise
from statistics import mean, stdev

import pytest

from befit.bench.arrivals import poisson


def take(rate: float, seed: int, n: int) -> list[float]:
    return list(islice(poisson(rate, seed), n))


def test_the_same_seed_gives_the_same_arrivals() -> None:
    assert take(5.0, 1, 100) == take(5.0, 1, 100)
    assert take(5.0, 1, 100) != take(5.0, 2, 100)


def test_gaps_are_exponential_with_the_rates_mean() -> None:
    times = take(4.0, 3, 20_001)
    assert times == sorted(times)
    gaps = [b - a for a, b in pairwise(times)]
    assert mean(gaps) == pytest.approx(1 / 4, rel=0.03)
    assert stdev(gaps) == pytest.approx(1 / 4, rel=0.03)  # of an exponential distribution, its mean
    assert sum(gap > 1 / 4 for gap in gaps) / len(gaps) == pytest.approx(math.exp(-1), rel=0.03)


def test_an_infinite_rate_is_all_at_once() -> None:
    assert take(math.inf, 0, 3) == [0.0, 0.0, 0.0]
