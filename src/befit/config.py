"""Frozen settings. What the user leaves on auto is resolved once, at start, and printed."""

from __future__ import annotations

from dataclasses import dataclass

SCORE_ROWS = 64
"""Prompt positions that a step scores at most. With a sampled row per sequence: the rows a backend needs room for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """What a user may set; None is auto (see `EngineConfig` for the meanings).

    memory is what befit may take, in bytes or as in "6GiB"; None: what is free.
    """

    ctx: int | None = None
    max_seqs: int | None = None
    token_budget: int | None = None
    kv_tokens: int | None = None
    memory: int | str | None = None
    threads: int | None = None
    backend: str = "auto"
    kv_dtype: str | None = None
    quant: str = "auto"
    prefix_cache: bool = True
    max_queue: int = 4096
    speculation: str = "auto"
    draft: str | None = None
    loop_guard: str = "auto"
    max_output_tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """Resolved settings of one engine.

    ctx            tokens of prompt and output together that one sequence may have
    max_seqs       sequences that run at once
    token_budget   tokens that one step computes at most (bounds prefill chunks)
    block_size     tokens a KV page
    n_blocks       KV pages in the pool
    threads        worker threads of a CPU backend
    backend        "native", "cuda" or "reference"
    kv_dtype       how keys and values are kept: "f16", "int8" (native, cuda: half the memory, less exact), "fp8"
                   (cuda: as much, in floats), or "f32" (reference, cuda)
    prefix_cache   reuse KV pages of equal prefixes
    max_queue      requests that may wait before new ones are refused
    speculation    "lookup", "draft", "auto" (both) or "off": where drafts for speculative decoding come from
    draft          name or path of the draft model; None: there is none
    loop_guard     "on", "off" or "auto" (for editors and for requests without max_tokens): end outputs that loop
    max_output_tokens  output tokens of a request without max_tokens; None: what the context holds
    card_layers    layers on the card, where the others are on the CPU; None: the model is not split
    """

    ctx: int
    max_seqs: int
    token_budget: int
    block_size: int
    n_blocks: int
    threads: int
    backend: str
    kv_dtype: str
    prefix_cache: bool
    max_queue: int
    speculation: str
    draft: str | None
    loop_guard: str = "auto"
    max_output_tokens: int | None = None
    card_layers: int | None = None
