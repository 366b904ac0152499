"""The scheduler: each step lets some tasks catch up (`computed` towards `known`) within a budget of tokens.

Decoding, chunked prefill, prefix reuse, recomputing after preemption and speculation are the same thing here: a task
that knows more tokens than are computed. The rules:

- Order is (priority, arrival). Running tasks that only decode are served first, then running ones that still catch up,
  then waiting ones are admitted, none of them past one that lacks pages. The first running task in order is never
  preempted, and every task fits the pool alone, so each one ends.
- A task is admitted when the pages of all its known tokens are free, and a page more for each running task. So only a
  growing output can run out of pages; then the last running task in order gives its pages back and waits again
  (preemption by recompute, and usually its full pages are found again).
- A waiting task whose next page some running task is just computing waits for that page and lets others pass. So n
  continuations of one prompt, or a burst of requests with one system prompt, compute it once. (Without a prefix
  cache, each computes its own.)
- At least one token of an admitted task is computed, because only that gives logits: reuse leaves out the page of the
  last token. Shared pages are therefore full and never written, and need no copy-on-write.
- Drafts get what is left: `grant` gives them the rest of a step's budgets and pages that are free. The pages stay for
  the tokens to come, whatever they are, and go back as soon as anybody lacks one: nobody is preempted for a draft, and
  nobody waits for one. A draft that was right is a known token that is computed already: one more `advance`.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable
from itertools import islice
from typing import Generic, TypeVar

from befit.cache.blocks import BlockPool
from befit.cache.prefix import PrefixIndex, extend_chain
from befit.errors import ContextExceeded
from befit.sched.task import Task

T = TypeVar("T", bound=Task)


def _order(task: Task) -> tuple[int, int]:
    return (task.priority, task.arrival)


class Scheduler(Generic[T]):
    """Decides over one pool of pages. Tasks go `add` → (`schedule` → `advance`)* → `remove`.

    max_seqs      tasks that run at once
    token_budget  tokens a step, at least max_seqs so that all can decode
    score_budget  tokens of scoring tasks and drafts a step: each may need a row of logits
    """

    def __init__(
        self,
        *,
        n_blocks: int,
        block_size: int,
        max_seqs: int,
        token_budget: int,
        score_budget: int = 64,
        prefix_cache: bool = True,
        on_preempt: Callable[[T], None] | None = None,
    ) -> None:
        self.index = PrefixIndex() if prefix_cache else None
        self.pool = BlockPool(n_blocks, self.index.forget if self.index is not None else None)
        self.block_size = block_size
        self.max_seqs = max_seqs
        self.token_budget = token_budget
        self.score_budget = score_budget
        self.waiting: list[T] = []
        self.running: list[T] = []
        self.preemptions = 0
        self._on_preempt = on_preempt
        self._left = (0, 0)  # of the latest step's token and score budgets
        self._arrivals = 0
        self._slots = list(range(max_seqs - 1, -1, -1))

    # -- the life of a task ---------------------------------------------------------------------------------------

    def add(self, task: T) -> None:
        """Let a task wait for its turn. Raises ContextExceeded if it could never run, even alone."""
        room = self.pool.n_blocks * self.block_size
        if task.limit > room:
            raise ContextExceeded(
                f"The request may grow to {task.limit} tokens but the KV cache holds {room}; "
                "ask for less output, shorten the prompt or enlarge the cache."
            )
        task.arrival = self._arrivals
        self._arrivals += 1
        insort(self.waiting, task, key=_order)

    def schedule(self) -> list[tuple[T, int]]:
        """The next step: tasks, and how many tokens each computes from `tokens[computed]` on. Allocates their pages."""
        preempted = self._make_room()
        budget, score_budget = self.token_budget, self.score_budget
        step: list[tuple[T, int]] = []
        behind = []
        for task in self.running:
            if task.catching_up:
                behind.append(task)
                continue
            n = min(len(task.tokens) - task.computed, budget)
            if n > 0:
                step.append((task, n))
                budget -= n
        for task in behind:
            n = min(len(task.tokens) - task.computed, budget, score_budget if task.scoring else budget)
            if n > 0:
                step.append((task, n))
                budget -= n
                score_budget -= n if task.scoring else 0
        passed = 0
        while not preempted and budget > 0 and self._slots and passed < len(self.waiting) and passed < self.max_seqs:
            task = self.waiting[passed]
            if task.scoring and score_budget == 0:
                break
            matched = self._match(task)
            if matched is None:
                passed += 1
                continue
            if not self._admit(task, matched):
                break
            n = min(len(task.tokens) - task.computed, budget, score_budget if task.scoring else budget)
            step.append((task, n))
            budget -= n
            score_budget -= n if task.scoring else 0
        self._left = budget, score_budget
        return step

    @property
    def draft_budget(self) -> int:
        """Drafts that the budgets of the latest step still allow."""
        return min(self._left)

    def grant(self, task: T, wanted: int) -> int:
        """How many drafts, of `wanted`, a task of the latest step that computes all it knows may put behind that."""
        budget, score_budget = self._left
        pool, known = self.pool, len(task.tokens)
        n = min(wanted, budget, score_budget, task.limit - known - 1)
        if n <= 0:
            return 0
        while len(task.pages) * self.block_size < known + n and pool.n_free:
            task.pages.append(pool.alloc())
        n = min(n, len(task.pages) * self.block_size - known)
        self._left = budget - n, score_budget - n
        return n

    def advance(self, task: T, n: int) -> None:
        """The step computed `n` tokens of a running task; its newly full pages can be found by others from now on."""
        before = task.computed
        task.computed = before + n
        if task.computed == len(task.tokens):
            task.catching_up = False
        full = task.computed // self.block_size
        if self.index is not None and full > before // self.block_size:
            extend_chain(task.names, task.root, task.tokens, self.block_size, full)
            for i in range(before // self.block_size, full):
                self.index.publish(task.pages[i], task.names[i])

    def again(self, task: T) -> None:
        """The last known token of a running task is computed once more, to the same keys and values: what was sampled
        behind it does not count."""
        task.computed = len(task.tokens) - 1

    def remove(self, task: T, *, suspect: bool = False) -> None:
        """The task ended, for whatever reason: its pages are free at once. Suspect: nobody may reuse their content."""
        if task.slot >= 0:
            if suspect and self.index is not None:
                for page in task.pages:
                    self.index.forget(page)
            self.running.remove(task)
            self._give_back(task)
        else:
            at = bisect_left(self.waiting, _order(task), key=_order)
            if at < len(self.waiting) and self.waiting[at] is task:
                del self.waiting[at]

    # -- pages ----------------------------------------------------------------------------------------------------

    def _pages_for(self, tokens: int) -> int:
        return -(-tokens // self.block_size)

    def _make_room(self) -> bool:
        """Give every running task pages for all its known tokens, first in order first; True if that preempted one."""
        running, pool, size = self.running, self.pool, self.block_size
        preempted = False
        at = 0
        while at < len(running):
            task = running[at]
            missing = -(-len(task.tokens) // size) - len(task.pages)
            at += 1
            if missing <= 0:
                continue
            if missing > pool.n_free:
                self._take_back()
            while missing > pool.n_free and at <= len(running):
                self._preempt(running.pop())
                preempted = True
            if at <= len(running):
                for _ in range(missing):
                    task.pages.append(pool.alloc())
        return preempted

    def _take_back(self) -> None:
        """Free the pages that were granted for drafts and are not needed for known tokens."""
        for task in self.running:
            needed = self._pages_for(len(task.tokens))
            if len(task.pages) > needed:
                for page in task.pages[needed:]:
                    self.pool.release(page, keep=False)
                task.pages = task.pages[:needed]  # another list, by which a holder of the old one sees the change

    def _preempt(self, task: T) -> None:
        self._give_back(task)
        insort(self.waiting, task, key=_order)
        self.preemptions += 1
        if self._on_preempt is not None:
            self._on_preempt(task)

    def _match(self, task: T) -> list[int] | None:
        """Pages that a waiting task can start from; None if it should wait for a page that is being computed."""
        if self.index is None:
            return []
        extend_chain(task.names, task.root, task.tokens, self.block_size, len(task.tokens) // self.block_size)
        if not task.reuse:
            return []
        limit = (len(task.tokens) - 1) // self.block_size
        matched = self.index.match(task.names, limit)
        at = len(matched)
        if at < limit and any(self._computes(other, at, task.names[at]) for other in self.running):
            return None
        return matched

    def _computes(self, task: T, at: int, name: bytes) -> bool:
        """Whether a running task has yet to compute the page `name`, its page number `at`."""
        return task.computed < (at + 1) * self.block_size and len(task.names) > at and task.names[at] == name

    def _admit(self, task: T, matched: list[int]) -> bool:
        """Start a waiting task on the pages that match; False if the pages it needs besides are not free."""
        pool = self.pool
        missing = self._pages_for(len(task.tokens)) - len(matched)
        needed = missing + len(self.running) + sum(1 for page in matched if pool.refs(page) == 0)
        if needed > pool.n_free:
            self._take_back()
        if needed > pool.n_free:
            return False
        for page in matched:
            pool.acquire(page)
        task.pages = matched + [pool.alloc() for _ in range(missing)]
        task.computed = len(matched) * self.block_size
        task.catching_up = True
        if task.cached is None:
            task.cached = task.computed
        task.slot = self._slots.pop()
        self.waiting.remove(task)
        insort(self.running, task, key=_order)
        return True

    def _give_back(self, task: T) -> None:
        """Release all pages, last first, so that the heads of sequences stay findable the longest."""
        index = self.index
        for page in reversed(task.pages):
            self.pool.release(page, keep=index is not None and index.knows(page))
        task.pages = []
        task.drafts = []
        task.computed = 0
        self._slots.append(task.slot)
        task.slot = -1

    # -- for tests ------------------------------------------------------------------------------------------------

    def check_integrity(self) -> None:
        """Raise AssertionError unless pages, slots and queues add up."""
        self.pool.check_integrity()
        holders: dict[int, int] = {}
        for task in self.running:
            if not 0 <= task.computed <= len(task.tokens) <= task.limit:
                raise AssertionError(f"A task has computed {task.computed} of {len(task.tokens)} known tokens.")
            if task.computed > len(task.pages) * self.block_size:
                raise AssertionError("A task has computed more tokens than its pages hold.")
            for page in task.pages:
                holders[page] = holders.get(page, 0) + 1
        for page in range(self.pool.n_blocks):
            if self.pool.refs(page) != holders.get(page, 0):
                raise AssertionError(
                    f"KV page {page} counts {self.pool.refs(page)} holders but {holders.get(page, 0)} tasks hold it."
                )
        if any(task.pages or task.computed or task.slot >= 0 for task in self.waiting):
            raise AssertionError("A waiting task holds pages, a slot or computed tokens.")
        if sorted([*self._slots, *(task.slot for task in self.running)]) != list(range(self.max_seqs)):
            raise AssertionError("Slots are lost or shared.")
        for queue in (self.waiting, self.running):
            if any(_order(a) >= _order(b) for a, b in zip(queue, islice(queue, 1, None), strict=False)):
                raise AssertionError("A queue is out of order.")
        if self.index is not None:
            self.index.check_integrity()
