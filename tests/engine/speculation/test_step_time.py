"""What steps cost is learned from the steps that were run, and forgotten again."""

import random

from befit.engine.speculation.step_time import StepTime, block_size


def test_tokens_count_one_by_one_and_then_in_blocks() -> None:
    assert [block_size(n) for n in (1, 7, 8, 9, 16, 17, 33)] == [1, 7, 8, 16, 16, 32, 48]


def test_steps_of_two_sizes_give_the_line_through_them() -> None:
    time = StepTime()
    for _ in range(200):
        time.observe(1, 0.017)
        time.observe(16, 0.047)
    assert abs(time.predict(1) - 0.017) < 1e-3
    assert abs(time.predict(8) - 0.031) < 1e-3
    assert abs(time.predict(32) - 0.079) < 2e-3


def test_steps_of_one_size_leave_the_slope_to_a_guess() -> None:
    time = StepTime()
    assert not time.known
    for _ in range(100):
        time.observe(1, 0.010)
    assert time.known
    assert abs(time.predict(1) - 0.010) < 1e-6
    assert 0.010 < time.predict(2) < 0.012


def test_more_tokens_never_cost_less_nor_more_than_in_proportion() -> None:
    random.seed(1)
    time = StepTime()
    for _ in range(500):
        time.observe(random.randint(1, 70), random.uniform(0.001, 1.0))
        assert 0 <= time.predict(1) <= time.predict(2) <= 2 * time.predict(1)


def test_one_interrupted_step_does_not_turn_drafts_off_for_good() -> None:
    time = StepTime()
    for _ in range(50):
        time.observe(1, 0.010)
        time.observe(8, 0.012)
    time.observe(8, 5.0)
    assert time.predict(8) < 3 * time.predict(1)
    for _ in range(100):
        time.observe(1, 0.010)
    assert time.predict(8) < 2 * time.predict(1)
