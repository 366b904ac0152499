"""What the engine asks of a backend: hold the weights and the KV pool, run one step, sample.

The engine packs the tokens of all running sequences into one `StepBatch`; the backend returns a `StepResult`. A step
is one call, so that a backend may release the GIL or launch one graph for all of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from concurrent.futures import Future

I32: TypeAlias = npt.NDArray[np.int32]
U32: TypeAlias = npt.NDArray[np.uint32]
F32: TypeAlias = npt.NDArray[np.float32]

SCORE_ONLY = -1
OK, NON_FINITE, VOID = 0, 1, 2


@dataclass(frozen=True, slots=True)
class SamplerSpec:
    """One sequence's sampling rules with everything resolved to token ids (see `SamplingParams` for the meanings).

    seed: 64 bits, already drawn. bad_words: token-id sequences, none of which may be completed.
    min_tokens: until this many tokens are out, no id of `stop_ids` may be sampled.
    allowed_ids: if any, no other id may be sampled.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    seed: int = 0
    logit_bias: tuple[tuple[int, float], ...] = ()
    bad_words: tuple[tuple[int, ...], ...] = ()
    min_tokens: int = 0
    stop_ids: tuple[int, ...] = ()
    allowed_ids: tuple[int, ...] = ()
    watermark: bool = False


Sampler: TypeAlias = Any
"""A backend's own sampling state of one sequence: it remembers every token it returned (for penalties and the counter
of the random generator). It outlives preemption: recomputing KV does not touch it."""


@dataclass(slots=True)
class TokenMasks:
    """Which tokens the rows of a step may sample.

    bits   [M, ceil(vocab / 32)]  a mask each: token t is allowed if bit t % 32 of word t // 32 is set
    index  [R]                    the mask of the row, or -1: all tokens are allowed
    ready                         done when `bits` is complete, whatever its result. Masks may be computed while the
                                  model runs; a backend waits before it samples.
    """

    bits: U32
    index: I32
    ready: Future[None]


@dataclass(slots=True)
class StepBatch:
    """T tokens of S sequences, packed sequence by sequence; R of the T positions need logits, H others hidden states.

    tokens, positions   [T]      token ids and their positions in their sequences
    query_start         [S + 1]  sequence i owns tokens query_start[i]:query_start[i+1]
    context_len         [S]      KV entries the last query of the sequence sees, itself included
    block_tables        [S, B]   page numbers; entries past ceil(context_len / block_size) are ignored
    rows                [R]      indices into T, rising
    targets             [R]      SCORE_ONLY..: -1 samples a token with samplers[r]; an id >= 0 only scores that id
    samplers            [R]      sampling state of the row; None where targets[r] >= 0
    logprobs            [R]      -1: none; k >= 0: the chosen or target token's log-probability and the k likeliest
    drafts              [R]      -1, or the token that the batch assumes to be what this row samples: it is the next of
                                 the T tokens, and the next row, which has the same sampler, is what follows it.
                                 None is -1 everywhere.
    masks                        tokens that rows are confined to; None: no row is
    hidden              [H]      indices into T, rising and none of `rows`: what the head would read there is returned.
                                 None is none.
    """

    tokens: I32
    positions: I32
    query_start: I32
    context_len: I32
    block_tables: I32
    rows: I32
    targets: I32
    samplers: list[Sampler | None]
    logprobs: I32
    drafts: I32 | None = None
    masks: TokenMasks | None = None
    hidden: I32 | None = None


@dataclass(slots=True)
class StepResult:
    """For each of the R rows: the token sampled (or the target), whether its logits were finite, and log-probabilities.

    Log-probabilities are of the model's own distribution: log-softmax of the raw logits, before penalties, biases and
    temperature. status[r] is OK, NON_FINITE or VOID; a row that is not OK has no meaningful token. NON_FINITE fails its
    request only. VOID follows a draft that was not sampled, or a row that is not OK: its logits are of a text that does
    not exist, and its sampler was not asked.
    rank[r] counts from 1 (the likeliest token has rank 1). top[r] lists (token id, log-probability), likeliest first.
    logprob, rank and top are filled only for rows that asked for them.
    hidden [H, hidden_size] is the output of the last norm at the positions asked for; None when there were none.
    spoiled are indices into T, rising: tokens of which a key or value was not finite. A backend that keeps others in
    their place names them here, and rows that see them are NON_FINITE.
    """

    tokens: I32
    status: npt.NDArray[np.uint8]
    logprob: F32
    rank: I32
    top: list[list[tuple[int, float]]] = field(default_factory=list)
    hidden: F32 | None = None
    spoiled: list[int] = field(default_factory=list)


class Backend(Protocol):
    """A loaded model with its KV pool of `n_blocks` pages of `block_size` tokens."""

    name: str
    block_size: int
    n_blocks: int

    def new_sampler(self, spec: SamplerSpec, prompt: list[int]) -> Sampler:
        """Sampling state for a sequence; `prompt` is what repetition_penalty also covers."""
        ...

    def step(self, batch: StepBatch) -> StepResult:
        """Run the batch: write its KV, sample its rows. Blocks; may release the GIL."""
        ...

    def logits(self, batch: StepBatch) -> F32:
        """Run the batch and return the raw logits [R, vocab] without sampling: for tests and measurements."""
        ...

    def close(self) -> None:
        """Free the pool and the weights. The backend is not used afterwards."""
        ...
