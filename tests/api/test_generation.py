"""Where texts are worked on: short ones at once, long ones beside the event loop, huge ones one after the other."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from befit.api.generation import off_loop


async def most_at_once(size: int, calls: int = 4) -> int:
    """How many of so many concurrent calls ran at the same time, at most."""
    running = most = 0
    lock = threading.Lock()

    def work() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.02)
        with lock:
            running -= 1

    await asyncio.gather(*(off_loop(size, work) for _ in range(calls)))
    return most


@pytest.mark.parametrize(("size", "main"), [(100, True), (100_000, False), (2_000_000, False)])
async def test_only_short_texts_hold_the_event_loop_up(size: int, main: bool) -> None:
    assert (await off_loop(size, threading.current_thread) is threading.current_thread()) == main


async def test_huge_texts_wait_for_each_other_because_each_takes_much_memory() -> None:
    assert await most_at_once(2_000_000) == 1
    assert await most_at_once(100_000) > 1


async def test_what_a_text_raises_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        await off_loop(2_000_000, lambda: 1 // 0)
