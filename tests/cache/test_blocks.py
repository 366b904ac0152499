"""The page pool: counts, the order of reuse, and its own book-keeping check."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from befit.cache.blocks import BlockPool


def test_pages_are_reused_least_recently_released_first() -> None:
    pool = BlockPool(3)
    a, b, c = pool.alloc(), pool.alloc(), pool.alloc()
    for page in (b, c, a):
        pool.release(page)
    assert [pool.alloc() for _ in range(3)] == [b, c, a]


def test_worthless_pages_are_reused_before_kept_ones() -> None:
    pool = BlockPool(2)
    a, b = pool.alloc(), pool.alloc()
    pool.release(a)
    pool.release(b, keep=False)
    assert pool.alloc() == b


def test_a_free_page_can_be_acquired_again_until_it_is_handed_out() -> None:
    evicted: list[int] = []
    pool = BlockPool(1, evicted.append)
    page = pool.alloc()
    pool.release(page)
    pool.acquire(page)
    assert (pool.n_free, pool.n_used, pool.refs(page)) == (0, 1, 1)
    pool.release(page)
    evicted.clear()
    pool.alloc()
    assert evicted == [page]


def test_a_shared_page_is_free_only_when_its_last_holder_is_gone() -> None:
    pool = BlockPool(1)
    page = pool.alloc()
    pool.acquire(page)
    pool.release(page)
    assert pool.n_free == 0
    pool.release(page)
    assert pool.n_free == 1


def test_releasing_a_page_that_nobody_holds_is_a_bug_and_says_so() -> None:
    with pytest.raises(AssertionError, match="nobody holds"):
        BlockPool(1).release(0)


def test_the_check_finds_a_leak() -> None:
    pool = BlockPool(2)
    pool._refs[0] = 1
    with pytest.raises(AssertionError, match="disagree"):
        pool.check_integrity()


@given(st.lists(st.tuples(st.sampled_from(["alloc", "acquire", "release"]), st.integers(0, 100)), max_size=60))
def test_any_order_of_operations_keeps_the_books(operations: list[tuple[str, int]]) -> None:
    pool = BlockPool(4)
    held: list[int] = []
    for what, choice in operations:
        if what == "alloc" and pool.n_free:
            held.append(pool.alloc())
        elif what == "acquire":
            held.append(choice % 4)
            pool.acquire(choice % 4)
        elif what == "release" and held:
            pool.release(held.pop(choice % len(held)), keep=choice % 2 == 0)
        pool.check_integrity()
        assert [pool.refs(page) for page in range(4)] == [held.count(page) for page in range(4)]
