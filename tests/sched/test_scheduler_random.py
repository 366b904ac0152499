"""Random arrivals, lengths, priorities, cancels and tiny pools: nothing leaks, nothing starves, every task ends."""

from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from befit.cache.prefix import chain_root
from befit.sched.scheduler import Scheduler
from befit.sched.task import Task

BLOCK = 2


@dataclass
class Job:
    step: int
    prompt: list[int]
    output: int
    priority: int
    cancel_after: int | None
    scoring: bool


jobs = st.builds(
    Job,
    step=st.integers(0, 20),
    # Two token ids make equal prefixes common.
    prompt=st.lists(st.integers(0, 1), min_size=1, max_size=8),
    output=st.integers(1, 6),
    priority=st.integers(-1, 1),
    cancel_after=st.none() | st.integers(0, 10),
    scoring=st.booleans(),
)


@settings(max_examples=150)
@given(st.lists(jobs, max_size=12), st.integers(7, 12), st.integers(1, 4), st.integers(0, 4), st.data())
def test_drafts_that_are_wrong_change_nothing_for_anybody(
    work: list[Job], n_blocks: int, max_seqs: int, extra: int, data: st.DataObject
) -> None:
    """Two schedulers with the same work, one of which grants drafts. Prefixes aside, which drafts may displace."""

    def make() -> tuple[Scheduler[Task], list[Task]]:
        scheduler: Scheduler[Task] = Scheduler(
            n_blocks=n_blocks,
            block_size=BLOCK,
            max_seqs=max_seqs,
            token_budget=max_seqs + extra,
            score_budget=4,
            prefix_cache=False,
        )
        tasks = [Task(job.prompt, len(job.prompt) + job.output, priority=job.priority) for job in work]
        return scheduler, tasks

    (plain, tasks), (drafting, others) = make(), make()
    for now in range(500):
        for i, job in enumerate(work):
            if job.step == now:
                plain.add(tasks[i])
                drafting.add(others[i])
        steps = plain.schedule(), drafting.schedule()
        assert [(tasks.index(task), n) for task, n in steps[0]] == [(others.index(task), n) for task, n in steps[1]]
        budget, rows = drafting.token_budget - sum(n for _, n in steps[1]), 4
        for task, _ in steps[1]:
            if not task.catching_up:
                granted = drafting.grant(task, data.draw(st.integers(0, 5)))
                budget, rows = budget - granted, rows - granted
                assert granted == 0 or len(task.tokens) + granted < task.limit
                assert len(task.tokens) + granted <= len(task.pages) * BLOCK
        assert budget >= 0
        assert rows >= 0
        drafting.check_integrity()
        for scheduler, step in zip((plain, drafting), steps, strict=True):
            for task, n in step:
                scheduler.advance(task, n)
                if task.computed == len(task.tokens):
                    task.tokens.append(2)
                    if len(task.tokens) == task.limit:
                        scheduler.remove(task)
            scheduler.check_integrity()
        if now > 20 and not (plain.running or plain.waiting):
            break
    assert not drafting.running
    assert not drafting.waiting
    assert drafting.pool.n_used == 0
    assert drafting.preemptions == plain.preemptions


@settings(max_examples=200)
@given(st.lists(jobs, max_size=12), st.integers(7, 12), st.integers(1, 4), st.integers(0, 4), st.booleans())
def test_every_task_ends_and_all_pages_come_back(
    work: list[Job], n_blocks: int, max_seqs: int, extra: int, cache: bool
) -> None:
    budget = max_seqs + extra
    scheduler: Scheduler[Task] = Scheduler(
        n_blocks=n_blocks,
        block_size=BLOCK,
        max_seqs=max_seqs,
        token_budget=budget,
        score_budget=2,
        prefix_cache=cache,
    )
    pending = sorted(enumerate(work), key=lambda item: item[1].step)
    live: dict[int, Task] = {}
    cancel_at: dict[int, int] = {}
    done: set[int] = set()
    for now in range(2000):
        while pending and pending[0][1].step <= now:
            number, job = pending.pop(0)
            live[number] = Task(
                job.prompt,
                len(job.prompt) + job.output,
                priority=job.priority,
                root=chain_root(BLOCK, ""),
                scoring=job.scoring,
                reuse=not job.scoring,
            )
            scheduler.add(live[number])
            if job.cancel_after is not None:
                cancel_at[number] = now + job.cancel_after
        for number in [n for n, at in cancel_at.items() if at <= now and n in live]:
            scheduler.remove(live.pop(number))
            done.add(number)
        if not live and not pending:
            break
        step = scheduler.schedule()
        scheduler.check_integrity()
        assert bool(step) == bool(live), "work is waiting and nothing runs"
        assert sum(n for _, n in step) <= budget
        assert sum(n for task, n in step if task.scoring and task.catching_up) <= 2
        assert len({id(task) for task, _ in step}) == len(step) <= max_seqs
        for task, n in step:
            assert 1 <= n <= len(task.tokens) - task.computed
            assert len(task.pages) * BLOCK >= task.computed + n
            # Pages about to be written belong to this task alone.
            for page in task.pages[task.computed // BLOCK : -(-(task.computed + n) // BLOCK)]:
                assert scheduler.pool.refs(page) == 1
        for task, n in step:
            scheduler.advance(task, n)
            if task.computed == len(task.tokens):
                task.tokens.append(2)
                if len(task.tokens) == task.limit:
                    scheduler.remove(task)
                    number = next(n for n, each in live.items() if each is task)
                    del live[number]
                    done.add(number)
        scheduler.check_integrity()
    assert done == set(range(len(work)))
    assert scheduler.pool.n_used == 0
