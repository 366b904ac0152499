"""Packing what the scheduler chose into the arrays of one `StepBatch`.

The block tables live in one persistent array with a row per slot; a step only writes the pages that are new in it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from befit.backends.base import I32, Sampler, StepBatch
from befit.engine.request import Sequence

SAMPLE = -1
NO_DRAFT = -1


@dataclass(slots=True)
class Packed:
    """A batch and what its rows are for: of sequence i `scores[i]` to score, then `samples[i]` to sample.

    That is one row if the sequence has caught up, and one more for each of its drafts. Its pool, if it has one, gets
    `pooled[i]` hidden states.
    """

    batch: StepBatch
    scores: list[int]
    samples: list[int]
    pooled: list[int]


class BatchBuilder:
    """Packs steps of at most `max_seqs` running sequences of at most `max_pages` pages each."""

    def __init__(self, max_seqs: int, max_pages: int) -> None:
        self._table: I32 = np.zeros((max_seqs, max_pages), dtype=np.int32)
        self._filled = [0] * max_seqs
        self._pages: list[list[int] | None] = [None] * max_seqs

    def pack(self, step: list[tuple[Sequence, int]]) -> Packed:
        """Arrays for the step; every sequence has its sampler by now."""
        tokens: list[int] = []
        positions: list[int] = []
        query_start = [0]
        context_len: list[int] = []
        slots: list[int] = []
        rows: list[int] = []
        targets: list[int] = []
        samplers: list[Sampler | None] = []
        logprobs: list[int] = []
        scores: list[int] = []
        samples: list[int] = []
        drafts: list[int] = []
        hidden: list[int] = []
        pooled: list[int] = []
        width = 0
        for sequence, n in step:
            known, start = sequence.tokens, sequence.computed
            end = start + n
            first_row = len(tokens)
            if n == 1:
                tokens.append(known[start])
                positions.append(start)
            else:
                tokens += known[start:end]
                positions += range(start, end)
            ahead = sequence.drafts
            if ahead:
                tokens += ahead
                positions += range(end, end + len(ahead))
            query_start.append(len(tokens))
            context_len.append(end + len(ahead))
            width = max(width, self._fill(sequence))
            slots.append(sequence.slot)
            n_scores = 0
            request = sequence.request
            if sequence.scoring and request.prompt_logprobs is not None and request.params.prompt_logprobs is not None:
                scored = range(max(start, len(request.prompt_logprobs) - 1), min(end, sequence.n_prompt - 1))
                n_scores = len(scored)
                rows += [first_row + position - start for position in scored]
                targets += [known[position + 1] for position in scored]
                samplers += [None] * n_scores
                logprobs += [request.params.prompt_logprobs] * n_scores
                drafts += [NO_DRAFT] * n_scores
            scores.append(n_scores)
            n_pooled = 0
            if sequence.pool is not None:
                wanted = sequence.pool.wanted(start, end)
                n_pooled = len(wanted)
                hidden += [first_row + position - start for position in wanted]
            pooled.append(n_pooled)
            n_samples = 1 + len(ahead) if end == len(known) and end < sequence.limit else 0
            samples.append(n_samples)
            if n_samples == 1:
                rows.append(len(tokens) - 1)
                targets.append(SAMPLE)
                samplers.append(sequence.sampler)
                logprobs.append(request.logprobs)
                drafts.append(NO_DRAFT)
            elif n_samples:
                rows += range(len(tokens) - n_samples, len(tokens))
                targets += [SAMPLE] * n_samples
                samplers += [sequence.sampler] * n_samples
                logprobs += [request.logprobs] * n_samples
                drafts += ahead
                drafts.append(NO_DRAFT)
        batch = StepBatch(
            tokens=np.array(tokens, dtype=np.int32),
            positions=np.array(positions, dtype=np.int32),
            query_start=np.array(query_start, dtype=np.int32),
            context_len=np.array(context_len, dtype=np.int32),
            block_tables=self._table[:, :width].take(slots, axis=0),
            rows=np.array(rows, dtype=np.int32),
            targets=np.array(targets, dtype=np.int32),
            samplers=samplers,
            logprobs=np.array(logprobs, dtype=np.int32),
            drafts=np.array(drafts, dtype=np.int32),
            hidden=np.array(hidden, dtype=np.int32) if hidden else None,
        )
        return Packed(batch, scores, samples, pooled)

    def _fill(self, sequence: Sequence) -> int:
        """Bring the sequence's row of the table up to date; how many pages it has."""
        slot, pages = sequence.slot, sequence.pages
        # Every admission starts a new list of pages, so another list means another tenant of the slot.
        if self._pages[slot] is not pages:
            self._pages[slot] = pages
            self._filled[slot] = 0
        filled, count = self._filled[slot], len(pages)
        if filled < count:
            self._table[slot, filled:count] = pages[filled:]
            self._filled[slot] = count
        return count
