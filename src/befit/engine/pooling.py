"""One vector for a whole prompt: the mean of its hidden states, or the last one, gathered over any number of steps."""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np

from befit.backends.base import F32

Pooling: TypeAlias = Literal["mean", "last"]


class Pool:
    """What has been gathered of one prompt of `n_prompt` tokens. Positions that come again (after preemption, where
    they are computed anew) are not counted twice."""

    __slots__ = ("_n_prompt", "_seen", "_sum", "kind")

    def __init__(self, kind: Pooling, n_prompt: int) -> None:
        self.kind = kind
        self._n_prompt = n_prompt
        self._seen = n_prompt - 1 if kind == "last" else 0
        self._sum: np.ndarray | None = None

    def wanted(self, start: int, end: int) -> range:
        """The positions, of a step's [start, end), whose hidden states `add` must get."""
        return range(max(start, self._seen), max(end, self._seen))

    def add(self, hidden: F32) -> None:
        """Take the hidden states [n, width] of the positions that the last `wanted` named."""
        total = hidden.sum(axis=0, dtype=np.float64)
        self._sum = total if self._sum is None else self._sum + total
        self._seen += len(hidden)

    def result(self) -> F32:
        """The vector [width], not normalised."""
        assert self._sum is not None
        assert self._seen == self._n_prompt
        divisor = self._n_prompt if self.kind == "mean" else 1
        return np.asarray(self._sum / divisor, np.float32)
