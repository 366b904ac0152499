"""The masks of a step's rows, computed on a thread of their own while the model runs the step."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from befit.backends.base import U32, TokenMasks
from befit.engine.batch import Packed
from befit.engine.grammar import Grammar
from befit.engine.request import Sequence


class MaskFiller:
    """Confines the rows of sequences that have a grammar."""

    def __init__(self, vocab_size: int) -> None:
        self._words = -(-vocab_size // 32)
        self._pool: ThreadPoolExecutor | None = None

    @staticmethod
    def cut_drafts(step: list[tuple[Sequence, int]]) -> list[tuple[Sequence, int]]:
        """Drop drafts that the grammars do not allow; the sequences that lost all of theirs, and how many."""
        lost = []
        for sequence, _ in step:
            if sequence.grammar is not None and sequence.drafts:
                drafted = len(sequence.drafts)
                sequence.drafts = sequence.drafts[: sequence.grammar.admit(sequence.drafts)]
                if not sequence.drafts:
                    lost.append((sequence, drafted))
        return lost

    def begin(self, step: list[tuple[Sequence, int]], packed: Packed) -> None:
        """Give the batch its masks, and start to compute them."""
        work: list[tuple[Grammar, int, list[int]]] = []
        index: list[int] = []
        masks = 0
        for (sequence, _), n_scores, n_samples in zip(step, packed.scores, packed.samples, strict=True):
            index += [-1] * n_scores
            grammar = sequence.grammar
            if grammar is None or not n_samples or not grammar.active:
                index += [-1] * n_samples
                continue
            index += range(masks, masks + n_samples)
            work.append((grammar, masks, sequence.drafts))
            masks += n_samples
        if not work:
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="befit-masks")
        bits: U32 = np.zeros((masks, self._words), np.uint32)
        ready = self._pool.submit(_fill, bits, work)
        packed.batch.masks = TokenMasks(bits, np.array(index, np.int32), ready)


def _fill(bits: U32, work: list[tuple[Grammar, int, list[int]]]) -> None:
    for grammar, first, drafts in work:
        try:
            grammar.fill(bits[first : first + 1 + len(drafts)], drafts)
        except Exception as error:  # its rows stay zero: nothing is allowed, and that request fails
            grammar.error = error
            bits[first : first + 1 + len(drafts)] = 0
