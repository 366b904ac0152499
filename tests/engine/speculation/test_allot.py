"""Drafts go where they gain the most, and to nobody when they cost more than they gain."""

from hypothesis import given
from hypothesis import strategies as st

from befit.engine.speculation.allot import STRETCH, allot


def line(tokens: int) -> float:
    """A step of 15 ms and 2 ms a token, as a small model on two cores takes."""
    return 15 + 2 * tokens


def chain(chance: float, length: int = 31) -> list[float]:
    return [chance ** (i + 1) for i in range(length)]


def test_the_surer_the_drafts_the_more_there_are() -> None:
    counts = [allot([chain(chance)], 1, 1, 64, line)[0] for chance in (0.05, 0.3, 0.6, 0.9, 0.99)]
    assert counts[0] == 0
    assert counts == sorted(counts)
    assert counts[1] < counts[-1] == 31


def test_when_tokens_cost_nothing_all_are_drafted_and_when_they_cost_in_proportion_none() -> None:
    assert allot([chain(0.5)], 1, 1, 64, lambda tokens: 1.0) == [31]
    assert allot([chain(0.9)], 1, 1, 64, float) == [0]


def test_the_budget_is_kept_and_goes_to_the_likelier_drafts() -> None:
    sure, unsure = allot([chain(0.95), chain(0.5)], 2, 2, 6, lambda tokens: 1.0)
    assert sure + unsure == 6
    assert sure > unsure


def test_a_step_of_many_is_not_stretched_for_one() -> None:
    assert allot([chain(0.95)], 1, 1, 64, line)[0] > 10
    assert 0 < allot([chain(0.95)], 2, 2, 64, line)[0] < 8
    assert allot([chain(0.95)], 8, 8, 64, line) == [0]


def test_all_may_draft_together_where_one_alone_may_not() -> None:
    assert min(allot([chain(0.99)] * 8, 8, 8, 64, line)) > 0


def test_blocks_are_filled() -> None:
    def blocks(tokens: int) -> float:
        return 15 + 2.0 * (-(-tokens // 16) * 16)

    assert (1 + allot([chain(0.9)], 1, 1, 64, blocks)[0]) % 16 == 0


@given(
    st.lists(st.tuples(st.floats(0.01, 0.999), st.integers(0, 31)), max_size=6),
    st.integers(0, 4),
    st.integers(0, 64),
    st.floats(0, 3),
)
def test_nobody_without_drafts_is_slowed_beyond_the_limit(
    wishes: list[tuple[float, int]], others: int, most: int, slope: float
) -> None:
    def seconds(tokens: int) -> float:
        return 10 + slope * tokens

    sequences = len(wishes) + others
    counts = allot([chain(*wish) for wish in wishes], sequences, sequences, most, seconds)
    assert sum(counts) <= most
    assert all(0 <= count <= length for count, (_, length) in zip(counts, wishes, strict=True))
    if 0 in counts or others:
        assert seconds(sequences + sum(counts)) <= STRETCH * seconds(sequences)
