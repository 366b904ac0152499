"""The scheduler with four pages of four tokens and no model: who goes first, who waits, who gives way."""

import pytest

from befit.cache.prefix import chain_root
from befit.errors import ContextExceeded
from befit.sched.scheduler import Scheduler
from befit.sched.task import Task


def make(**changes: object) -> "Scheduler[Task]":
    settings: dict[str, object] = {"n_blocks": 4, "block_size": 4, "max_seqs": 4, "token_budget": 8, "score_budget": 4}
    return Scheduler(**{**settings, **changes})  # type: ignore[arg-type]


def task(prompt: list[int], limit: int = 16, **wishes: object) -> Task:
    return Task(prompt, limit, root=chain_root(4, ""), **wishes)  # type: ignore[arg-type]


def plan(scheduler: "Scheduler[Task]") -> list[tuple[Task, int]]:
    """One step as an engine runs it: each task that caught up learns one more token, 99; at its limit it goes."""
    step = scheduler.schedule()
    scheduler.check_integrity()
    for each, n in step:
        scheduler.advance(each, n)
        if each.computed == len(each.tokens):
            each.tokens.append(99)
            if len(each.tokens) >= each.limit:
                scheduler.remove(each)
        scheduler.check_integrity()
    return step


def test_a_prompt_longer_than_the_budget_is_computed_in_chunks() -> None:
    scheduler = make(token_budget=5)
    only = task(list(range(12)))
    scheduler.add(only)
    assert [plan(scheduler) for _ in range(4)] == [[(only, 5)], [(only, 5)], [(only, 2)], [(only, 1)]]


def test_decodes_come_first_then_running_prompts_then_new_ones() -> None:
    scheduler = make(n_blocks=16, token_budget=6)
    first, long, new = task([1, 2]), task([3] * 11), task([4, 5])
    scheduler.add(first)
    scheduler.add(long)
    assert plan(scheduler) == [(first, 2), (long, 4)]
    scheduler.add(new)
    assert plan(scheduler) == [(first, 1), (long, 5)]
    assert plan(scheduler) == [(first, 1), (long, 2), (new, 2)]


def test_lower_priority_numbers_go_first_and_equal_ones_in_order_of_arrival() -> None:
    scheduler = make(n_blocks=16, max_seqs=1)
    late, early, urgent = task([1], 2), task([2], 2), task([3], 2, priority=-1)
    for each in (early, late, urgent):
        scheduler.add(each)
    assert [plan(scheduler)[0][0] for _ in range(3)] == [urgent, early, late]


def test_no_more_than_max_seqs_run_and_each_has_a_slot_of_its_own() -> None:
    scheduler = make(max_seqs=2)
    for i in range(3):
        scheduler.add(task([i]))
    plan(scheduler)
    assert sorted(each.slot for each in scheduler.running) == [0, 1]
    assert len(scheduler.waiting) == 1


def test_a_task_that_could_never_fit_is_refused_at_once() -> None:
    with pytest.raises(ContextExceeded, match="17 tokens but the KV cache holds 16"):
        make().add(task([1], limit=17))


def test_nobody_passes_a_task_that_waits_for_pages() -> None:
    scheduler = make()
    running, big, small = task([1] * 5), task([2] * 12), task([3])
    for each in (running, big, small):
        scheduler.add(each)
    plan(scheduler)
    assert scheduler.running == [running]
    assert scheduler.waiting == [big, small]


def test_when_pages_run_out_the_last_in_order_gives_way_and_goes_on_later_with_its_output() -> None:
    scheduler = make(prefix_cache=False)
    old, young = task([1] * 3), task([2] * 3)
    scheduler.add(old)
    scheduler.add(young)
    for _ in range(7):
        plan(scheduler)
    assert scheduler.preemptions == 1
    assert scheduler.running == [old]
    assert scheduler.waiting == [young]
    assert young.tokens == [2, 2, 2, 99, 99, 99, 99, 99, 99]
    for _ in range(6):
        assert [each for each, _ in plan(scheduler)] == [old]
    assert plan(scheduler) == [(young, 8)]
    assert plan(scheduler) == [(young, 1)]


def test_nothing_new_starts_in_a_step_that_had_to_preempt() -> None:
    scheduler = make(n_blocks=5, prefix_cache=False)
    for prompt in ([1] * 3, [2] * 3, [3] * 7):
        scheduler.add(task(prompt))
    while not scheduler.preemptions:
        running = list(scheduler.running)
        step = plan(scheduler)
    assert running
    assert {id(each) for each, _ in step} < {id(each) for each in running}


def test_what_a_preempted_task_finds_again_does_not_count_as_cached() -> None:
    scheduler = make()
    old, young = task([1] * 3), task([2] * 3)
    scheduler.add(old)
    scheduler.add(young)
    for _ in range(14):
        plan(scheduler)
    assert scheduler.preemptions == 1
    assert young in scheduler.running
    assert young.cached == 0


def test_a_known_prefix_is_not_computed_again() -> None:
    scheduler = make()
    first = task([1, 2, 3, 4, 5, 6, 7, 8, 9], 10)
    scheduler.add(first)
    plan(scheduler)
    plan(scheduler)
    assert not scheduler.running
    second = task([1, 2, 3, 4, 5, 6, 7, 8, 10], 10)
    scheduler.add(second)
    assert plan(scheduler) == [(second, 1)]
    assert second.cached == 8


def test_of_a_prompt_known_in_full_the_last_page_is_computed_because_only_that_gives_logits() -> None:
    scheduler = make()
    for expected in (8, 4):
        each = task([1, 2, 3, 4, 5, 6, 7, 8], 9)
        scheduler.add(each)
        assert plan(scheduler) == [(each, expected)]


def test_different_salts_share_nothing() -> None:
    scheduler = make()
    for salt in ("a", "b"):
        each = Task([1] * 5, 6, root=chain_root(4, salt))
        scheduler.add(each)
        assert plan(scheduler) == [(each, 5)]


def test_equal_prompts_that_arrive_together_are_computed_once() -> None:
    scheduler = make(n_blocks=8, token_budget=32)
    first, second, other = task([1] * 9), task([1] * 9), task([2] * 2)
    for each in (first, second, other):
        scheduler.add(each)
    assert plan(scheduler) == [(first, 9), (other, 2)]
    assert plan(scheduler) == [(first, 1), (other, 1), (second, 1)]
    assert second.pages[:2] == first.pages[:2]


def test_a_task_that_waits_for_a_shared_page_goes_on_when_its_computing_task_is_gone() -> None:
    scheduler = make(token_budget=4)
    first, second = task([1] * 9), task([1] * 9)
    scheduler.add(first)
    scheduler.add(second)
    assert plan(scheduler) == [(first, 4)]
    scheduler.remove(first)
    assert plan(scheduler) == [(second, 4)]
    assert second.cached == 4


def test_pages_of_a_failed_task_are_not_reused() -> None:
    scheduler = make()
    first, second = task([1] * 9), task([1] * 9)
    scheduler.add(first)
    plan(scheduler)
    scheduler.remove(first, suspect=True)
    scheduler.add(second)
    assert plan(scheduler) == [(second, 8)]


def test_heads_of_sequences_outlive_their_tails() -> None:
    scheduler = make()
    first = task([1] * 13, 14)
    scheduler.add(first)
    plan(scheduler)
    plan(scheduler)
    other = task([2] * 7, 8)
    scheduler.add(other)
    plan(scheduler)
    again = task([1] * 13, 14)
    scheduler.add(again)
    plan(scheduler)
    assert again.cached == 8


def test_a_text_edited_in_its_middle_is_computed_from_the_edit_on() -> None:
    scheduler = make(n_blocks=8, token_budget=32)
    text = list(range(1, 17))
    for expected, typed in ((0, []), (8, [50]), (8, [50, 51]), (8, [50, 51, 52])):
        each = task([*text[:9], *typed, *text[9:]], 24)
        scheduler.add(each)
        plan(scheduler)
        assert each.cached == expected
        scheduler.remove(each)


def visit(scheduler: "Scheduler[Task]", session: int, n: int = 9) -> int:
    """One request of a session with two full pages of its own: how many tokens it found."""
    each = task([session] * n, n + 1)
    scheduler.add(each)
    while scheduler.running or scheduler.waiting:
        plan(scheduler)
    assert each.cached is not None
    return each.cached


def test_under_pressure_the_sessions_used_last_keep_their_pages() -> None:
    scheduler = make(n_blocks=7)  # two sessions' full pages, and the three that a new one needs
    assert [visit(scheduler, session) for session in (1, 2)] == [0, 0]
    assert visit(scheduler, 1) == 8
    assert visit(scheduler, 3) == 0
    assert visit(scheduler, 4) == 0  # takes the pages of session 2, which was used the longest ago
    assert [visit(scheduler, session) for session in (3, 4)] == [8, 8]
    assert visit(scheduler, 2) == 0


def test_a_pool_for_all_sessions_loses_none_of_them() -> None:
    scheduler = make(n_blocks=13)
    for expected in (0, 8, 8):
        assert [visit(scheduler, session) for session in range(1, 6)] == [expected] * 5


def test_a_scoring_task_starts_from_nothing_in_small_chunks() -> None:
    scheduler = make()
    warm = task([1] * 9, 10)
    scheduler.add(warm)
    plan(scheduler)
    plan(scheduler)
    scored = task([1] * 9, 10, scoring=True, reuse=False)
    scheduler.add(scored)
    assert [plan(scheduler)[0][1] for _ in range(3)] == [4, 4, 1]


def test_removing_a_waiting_or_unknown_task_is_safe() -> None:
    scheduler = make()
    waiting, unknown = task([1]), task([2])
    scheduler.add(waiting)
    scheduler.remove(unknown)
    scheduler.remove(waiting)
    assert not scheduler.waiting
    assert scheduler.schedule() == []
