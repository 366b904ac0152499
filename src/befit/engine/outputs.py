"""What the engine answers with: finished outputs for the Python API, deltas for servers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from befit.backends.base import F32

FinishReason: TypeAlias = Literal["stop", "length", "abort", "error"]
LOOP_STOP_REASON = "repetition_detected"
"""`stop_reason` of an output that the loop guard ended, as in vLLM; its finish_reason is "stop", or "length" where that
leaves a structure incomplete."""

CLOSED_STOP_REASON = "closed_at_limit"
"""`stop_reason` of an output that was led to the end of its structure because its tokens ran out; its finish_reason is
"stop": it is complete."""


@dataclass(slots=True)
class TokenLogprob:
    """One position: the token, its log-probability and rank (1 is likeliest), and the likeliest as (id, log-prob)."""

    token_id: int
    logprob: float
    rank: int
    top: list[tuple[int, float]] = field(default_factory=list)


@dataclass(slots=True)
class CompletionOutput:
    """One continuation. stop_reason is the stop string or stop token id that ended it (None for end of sequence),
    LOOP_STOP_REASON when the loop guard did, or CLOSED_STOP_REASON when its structure was completed in time.

    error is set together with finish_reason "error".
    """

    index: int
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] | None = None
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None
    error: Exception | None = None


@dataclass(slots=True)
class RequestOutput:
    """All continuations of one prompt. The first prompt position has no log-probability: its entry is None."""

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    prompt_logprobs: list[TokenLogprob | None] | None = None
    finished: bool = False
    cached_tokens: int = 0


@dataclass(slots=True)
class Delta:
    """What one step added to continuation `index` of a request.

    text may be empty while characters are incomplete or held back as a possible stop string; token_ids is always what
    was generated in the step. prompt_logprobs, cached_tokens and queue_seconds (waiting for the first step) come
    with the first delta of a request. error is set
    together with finish_reason "error". embedding is the pooled vector of a request that asked for one.
    """

    index: int
    text: str
    token_ids: list[int]
    logprobs: list[TokenLogprob] | None = None
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None
    prompt_logprobs: list[TokenLogprob | None] | None = None
    cached_tokens: int = 0
    queue_seconds: float = 0.0
    error: Exception | None = None
    embedding: F32 | None = None
