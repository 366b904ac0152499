"""A model on a card and the CPU around it: the first layers there, the others and the sampling here.

What the card makes of each token crosses once a step, and the other half looks it up as if it were an embedding. Both
keep the keys and values of their own layers, in pages of the same numbers.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from befit.backends.base import F32, Backend, Sampler, SamplerSpec, StepBatch, StepResult
from befit.errors import ConfigError

if TYPE_CHECKING:
    from befit.backends.cuda.backend import CudaBackend


class SplitBackend:
    """Implements `Backend` with two. table: float32 [max_tokens, hidden], which `back` looks tokens up in."""

    name = "cuda"

    def __init__(self, front: CudaBackend, back: Backend, table: F32) -> None:
        if len(table) > front.program.vocab_size:
            raise ConfigError(
                f"token_budget is {len(table)}, more than the vocabulary of {front.program.vocab_size}, which a model "
                "split between card and CPU cannot have; set --token-budget lower."
            )
        self.front = front
        self.back = back
        self.block_size = back.block_size
        self.n_blocks = back.n_blocks
        self._table = table

    def new_sampler(self, spec: SamplerSpec, prompt: list[int]) -> Sampler:
        """See `Backend.new_sampler`."""
        return self.back.new_sampler(spec, prompt)

    def step(self, batch: StepBatch) -> StepResult:
        """See `Backend.step`. Raises OutOfDeviceMemory, and ValueError for drafts, which it does not check."""
        return self.back.step(self._halfway(batch))

    def logits(self, batch: StepBatch) -> F32:
        """See `Backend.logits`."""
        return self.back.logits(self._halfway(batch))

    def close(self) -> None:
        """See `Backend.close`."""
        self.front.close()
        self.back.close()

    def _halfway(self, batch: StepBatch) -> StepBatch:
        """The batch for the second half, whose tokens are rows of the table."""
        if batch.drafts is not None and (batch.drafts >= 0).any():
            raise ValueError("a model split between card and CPU takes no drafts")
        n_tokens = len(batch.tokens)
        self._table[:n_tokens] = self.front.activations(batch)
        return replace(batch, tokens=np.arange(n_tokens, dtype=np.int32))
