"""Recommended models fit, are fast enough for what they are recommended for, and can be had."""

from __future__ import annotations

from dataclasses import replace

import pytest

from befit.doctor.recommend import COMPLETIONS, PURPOSES, recommend
from befit.plan.machine import Machine
from befit.store import catalogue


def test_three_commands_that_fit_and_are_fast_enough(laptop: Machine) -> None:
    found = recommend(laptop)
    assert len({each.model for each in found}) == len(found) == 3
    least = dict(PURPOSES)
    for each in found:
        assert each.memory + laptop.reserve <= laptop.available
        assert each.ctx >= 2048
        assert each.bound is not None
        assert each.bound >= least.get(each.purpose, 0)
        assert each.model in each.command
    assert found[0].model.startswith("qwen2.5-coder:")


def test_they_can_be_fetched_by_their_names(laptop: Machine) -> None:
    for each in recommend(laptop):
        assert each.command == f"befit serve {each.model}"
        assert catalogue.find(each.model) is not None


@pytest.mark.parametrize("bandwidth", [5e9, 10e9, 20e9, 60e9, 200e9])
def test_completions_are_by_models_that_fill_in_the_middle(laptop: Machine, bandwidth: float) -> None:
    for each in recommend(replace(laptop, bandwidth=bandwidth)):
        named = catalogue.find(each.model)
        assert named is not None
        assert named.model.fim or each.purpose != COMPLETIONS


def test_more_bandwidth_gives_larger_models(laptop: Machine) -> None:
    slow, fast = recommend(laptop)[0], recommend(replace(laptop, bandwidth=200e9))[0]
    assert fast.memory > slow.memory


@pytest.mark.parametrize(("gigabytes", "some"), [(0.1, False), (0.9, True)])
def test_where_memory_is_short_there_are_fewer(laptop: Machine, gigabytes: float, some: bool) -> None:
    found = recommend(replace(laptop, available=int(gigabytes * 1e9), reserve=0))
    assert bool(found) == some
    assert all(each.memory <= gigabytes * 1e9 for each in found)


def test_an_unknown_bandwidth_bounds_nothing(laptop: Machine) -> None:
    found = recommend(replace(laptop, bandwidth=None))
    assert found
    assert all(each.bound is None for each in found)
