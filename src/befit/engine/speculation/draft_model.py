"""Drafts from a second, smaller model with the same vocabulary.

Its KV pool has as many pages as the target's, and a page number means the same tokens in both: so it needs no
bookkeeping of its own, and what preempts or frees a sequence frees its draft pages too. Per sequence it is remembered
how many tokens have their draft KV; a draft first lets the model catch up on the rest, for all sequences in one step,
and then takes a step a token. It drafts greedily, which makes each draft a single guess, as the exactness needs.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from befit.backends.base import I32, OK, Sampler, SamplerSpec, StepBatch
from befit.engine.request import Sequence
from befit.engine.speculation.step_time import StepTime

if TYPE_CHECKING:
    from befit.engine.load import LoadedDraft


class Follower:
    """One sequence as the draft model sees it. `computed` of its tokens have their draft KV, then `ahead` drafts."""

    __slots__ = ("ahead", "computed", "sequence")

    def __init__(self, sequence: Sequence) -> None:
        self.sequence = sequence
        self.computed = self.ahead = 0

    def verified(self, accepted: int) -> None:
        """The first so many of the drafts were right, and only their KV counts; their tokens follow."""
        self.computed += min(accepted, self.ahead)
        self.ahead = 0


class DraftModel:
    """Drafts with a loaded model for a target whose token ids end before `vocab_size`.

    token_budget: tokens of a step at most. Sequences are not drafted beyond the draft model's own context.
    """

    def __init__(self, draft: LoadedDraft, *, vocab_size: int, token_budget: int) -> None:
        self.time = StepTime()
        self._backend = draft.backend
        self._vocab_size = vocab_size
        self._token_budget = token_budget
        self._max_context = draft.program.max_context
        self._names: list[bytes | None] = [None] * draft.backend.n_blocks  # of pages with the KV of all their tokens

    def draft(self, wanted: Iterable[tuple[Follower, int]]) -> list[tuple[Follower, list[int]]]:
        """The drafts of those sequences that could be drafted in this step, at most as many as wanted of each.

        Their pages must hold their known tokens and the drafts wanted.
        """
        drafts: list[tuple[Follower, list[int]]] = []
        counts: list[int] = []
        work: list[tuple[Follower, list[int], int]] = []
        budget, writing, size = self._token_budget, set[int](), self._backend.block_size
        for follower, count in wanted:
            sequence, known = follower.sequence, follower.sequence.tokens
            count = min(count, self._max_context - len(known))
            start = self._start(follower)
            pages = sequence.pages[start // size : -(-len(known) // size)]
            # A page that two sequences share is computed for one; the other finds it in the next step.
            if count <= 0 or budget <= 0 or not writing.isdisjoint(pages):
                continue
            writing.update(pages)
            end = min(len(known), start + budget)
            budget -= end - start
            work.append((follower, known[start:end], start))
            if end == len(known):
                drafts.append((follower, []))
                counts.append(count)
        if not work:
            return []
        samplers = {follower: self._backend.new_sampler(SamplerSpec(), []) for follower, _ in drafts}
        lists = dict(drafts)
        self._step(work, samplers, lists)
        for follower, new, start in work:
            self._computed(follower, start, start + len(new))
        for done in range(1, max(counts, default=0)):
            work = [
                (follower, tokens[-1:], len(follower.sequence.tokens) + done - 1)
                for (follower, tokens), count in zip(drafts, counts, strict=True)
                if len(tokens) == done < count
            ]
            if not work:
                break
            self._step(work, samplers, lists)
            for follower, _, _ in work:
                follower.ahead = done
        return drafts

    def _start(self, follower: Follower) -> int:
        """How many tokens have their draft KV; pages that others computed are found by name."""
        size, sequence = self._backend.block_size, follower.sequence
        while follower.computed % size == 0:
            page = follower.computed // size
            full = page < len(sequence.names) and (page + 1) * size < len(sequence.tokens)
            if not full or self._names[sequence.pages[page]] != sequence.names[page]:
                break
            follower.computed += size
        return follower.computed

    def _computed(self, follower: Follower, start: int, end: int) -> None:
        """The pages that positions start .. end-1 fill can be found by others."""
        follower.computed, follower.ahead = end, 0
        size, sequence = self._backend.block_size, follower.sequence
        for i in range(start // size, min(end // size, len(sequence.names))):
            self._names[sequence.pages[i]] = sequence.names[i]

    def _step(
        self,
        work: list[tuple[Follower, list[int], int]],
        samplers: dict[Follower, Sampler],
        drafts: dict[Follower, list[int]],
    ) -> None:
        """Compute tokens from a position on of each sequence; those that have a sampler get one more draft."""
        size = self._backend.block_size
        tokens: list[int] = []
        positions: list[int] = []
        query_start, context_len, rows = [0], [], []
        sampled: list[Follower] = []
        width = max(-(-(start + len(new)) // size) for _, new, start in work)
        tables = np.zeros((len(work), width), np.int32)
        for i, (follower, new, start) in enumerate(work):
            end = start + len(new)
            tokens += new
            positions += range(start, end)
            query_start.append(len(tokens))
            context_len.append(end)
            pages = follower.sequence.pages[: -(-end // size)]
            tables[i, : len(pages)] = pages
            for page in pages[start // size :]:
                self._names[page] = None
            if follower in samplers:
                rows.append(len(tokens) - 1)
                sampled.append(follower)
        batch = StepBatch(
            tokens=_ints(tokens),
            positions=_ints(positions),
            query_start=_ints(query_start),
            context_len=_ints(context_len),
            block_tables=tables,
            rows=_ints(rows),
            targets=np.full(len(rows), -1, np.int32),
            samplers=[samplers[follower] for follower in sampled],
            logprobs=np.full(len(rows), -1, np.int32),
        )
        begin = time.perf_counter()
        result = self._backend.step(batch)
        self.time.observe(len(tokens), time.perf_counter() - begin)
        for follower, token, status in zip(sampled, result.tokens.tolist(), result.status.tolist(), strict=True):
            if status == OK and token < self._vocab_size:
                drafts[follower].append(token)


def _ints(values: list[int]) -> I32:
    return np.array(values, np.int32)
