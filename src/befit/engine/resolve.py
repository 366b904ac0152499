"""Turning what the user left on auto into numbers, once, at start: see `EngineConfig` for what each one means.

The KV cache gets a quarter of the available memory, but never more than all sequences can use and never less than one
full context. Weights, KV cache and working memory must fit what is available, or the start is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from befit.backends import BLOCK_SIZE
from befit.config import EngineConfig, EngineOptions
from befit.errors import ConfigError, DoesNotFit
from befit.models.program import Program
from befit.plan.hardware import available_memory, physical_cores

DEFAULT_CTX = 8192
DEFAULT_MAX_SEQS = 64
DEFAULT_TOKEN_BUDGET = 512
KV_SHARE = 0.25
WORKING_MEMORY = 150 * 10**6
"""Bytes for the interpreter, its libraries and activations."""

_KV_DTYPES = {"native": ("f16", "int8"), "reference": ("f32",)}
"""What each backend can keep keys and values as; the first is the default."""


def resolve(
    options: EngineOptions,
    program: Program,
    *,
    weight_bytes: int,
    draft: Program | None = None,
    root: Path = Path("/"),
    block_size: int = BLOCK_SIZE,
) -> EngineConfig:
    """All settings of an engine. Raises ConfigError for impossible wishes, DoesNotFit for lack of memory.

    weight_bytes are those of the model and its draft model together; a KV page has room for both.
    """
    for name in ("ctx", "max_seqs", "token_budget", "kv_tokens", "threads", "max_queue", "max_output_tokens"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ConfigError(f"{name} is {value}; it must be at least 1.")
    backend = "native" if options.backend == "auto" else options.backend
    if backend not in _KV_DTYPES:
        raise ConfigError(f"backend is {backend!r}; choose auto, native or reference.")
    kv_dtype = options.kv_dtype or _KV_DTYPES[backend][0]
    if kv_dtype not in _KV_DTYPES[backend]:
        raise ConfigError(
            f"kv_dtype is {kv_dtype!r}; the {backend} backend keeps keys and values as "
            f"{' or '.join(_KV_DTYPES[backend])}."
        )
    if options.speculation not in ("auto", "lookup", "draft", "off"):
        raise ConfigError(f"speculation is {options.speculation!r}; choose auto, lookup, draft or off.")
    if options.speculation == "draft" and options.draft is None:
        raise ConfigError("speculation is 'draft' but there is no draft model; name one with draft.")
    if options.speculation in ("lookup", "off") and options.draft is not None:
        raise ConfigError(
            f"draft is {options.draft!r} but speculation is {options.speculation!r}, which would not use it; "
            "leave one of them out."
        )
    if options.loop_guard not in ("auto", "on", "off"):
        raise ConfigError(f"loop_guard is {options.loop_guard!r}; choose auto, on or off.")
    ctx = _ctx(options, program)
    max_seqs = options.max_seqs or DEFAULT_MAX_SEQS
    n_blocks = _blocks(
        options,
        ctx=ctx,
        max_seqs=max_seqs,
        block_size=block_size,
        token_bytes=_token_bytes(kv_dtype, program, draft),
        weight_bytes=weight_bytes,
        available=available_memory(root),
    )
    if options.max_seqs is None:
        max_seqs = min(max_seqs, n_blocks)
    elif max_seqs > n_blocks:
        raise ConfigError(
            f"max_seqs is {max_seqs} but the KV cache has {n_blocks} pages of {block_size} tokens and each sequence "
            f"needs one; set max_seqs to at most {n_blocks} or enlarge kv_tokens."
        )
    token_budget = options.token_budget or max(DEFAULT_TOKEN_BUDGET, 2 * max_seqs)
    if token_budget < max_seqs:
        raise ConfigError(
            f"token_budget is {token_budget}, too few for max_seqs {max_seqs} sequences to get a token each step; "
            "raise it or lower max_seqs."
        )
    return EngineConfig(
        ctx=ctx,
        max_seqs=max_seqs,
        token_budget=token_budget,
        block_size=block_size,
        n_blocks=n_blocks,
        threads=options.threads or physical_cores(root),
        backend=backend,
        kv_dtype=kv_dtype,
        prefix_cache=options.prefix_cache,
        max_queue=options.max_queue,
        speculation=options.speculation,
        draft=options.draft,
        loop_guard=options.loop_guard,
        max_output_tokens=options.max_output_tokens,
    )


def table(
    config: EngineConfig,
    program: Program,
    *,
    name: str,
    weight_bytes: int,
    draft: Program | None = None,
    notes: Sequence[str] = (),
) -> str:
    """The resolved settings for people to read, a line a subject, and a line a note on the weights."""
    kv_tokens = config.n_blocks * config.block_size
    kv_bytes = kv_tokens * _token_bytes(config.kv_dtype, program, draft)
    rows = {
        "model": f"{name} ({program.family}, {program.n_layers} layers, weights {_size(weight_bytes)})",
        "context": f"{config.ctx} tokens (the model allows {program.max_context})",
        "KV cache": f"{kv_tokens} tokens in pages of {config.block_size}, {config.kv_dtype}, {_size(kv_bytes)}; "
        f"prefix cache {'on' if config.prefix_cache else 'off'}",
        "batch": f"{config.max_seqs} sequences at once, {config.token_budget} tokens a step",
        "backend": f"{config.backend}, {config.threads} thread{'s' if config.threads > 1 else ''}",
        "speculation": _speculation(config),
    }
    width = max(map(len, rows))
    return "\n".join(f"{key:<{width}}  {value}" for key, value in [*rows.items(), *(("note", note) for note in notes)])


def _token_bytes(kv_dtype: str, program: Program, draft: Program | None) -> int:
    """Bytes of the KV cache that a token takes in the model and its draft model."""
    return sum(each.kv_bytes_per_token(kv_dtype) for each in (program, draft) if each)


def _speculation(config: EngineConfig) -> str:
    sources = ["prompt lookup"] if config.speculation in ("auto", "lookup") else []
    if config.draft is not None:
        sources.append(f"draft model {config.draft}")
    return " and ".join(sources) or "off"


def _ctx(options: EngineOptions, program: Program) -> int:
    longest = program.max_context
    if options.ctx is not None and options.ctx > longest:
        raise ConfigError(f"ctx is {options.ctx} but the model allows {longest} tokens; set ctx to at most {longest}.")
    ctx = options.ctx or min(longest, DEFAULT_CTX)
    if options.kv_tokens is not None and options.kv_tokens < ctx:
        if options.ctx is not None:
            raise ConfigError(
                f"ctx is {ctx} but kv_tokens gives the KV cache {options.kv_tokens} tokens; "
                f"set ctx to at most {options.kv_tokens} or kv_tokens to at least {ctx}."
            )
        ctx = options.kv_tokens
    return ctx


def _blocks(
    options: EngineOptions,
    *,
    ctx: int,
    max_seqs: int,
    block_size: int,
    token_bytes: int,
    weight_bytes: int,
    available: int,
) -> int:
    block_bytes = block_size * token_bytes
    room = (available - weight_bytes - WORKING_MEMORY) // block_bytes
    needed = -(-ctx // block_size)
    if options.kv_tokens is not None:
        wanted = needed = -(-options.kv_tokens // block_size)
    else:
        wanted = max(needed, min(max_seqs * needed, int(available * KV_SHARE) // block_bytes))
    if room < needed:
        fits = max(0, room) * block_size
        wish = f"kv_tokens {options.kv_tokens}" if options.kv_tokens is not None else f"one context of {ctx} tokens"
        advice = (
            f"set {'kv_tokens' if options.kv_tokens is not None else 'ctx'} to at most {fits}"
            if fits
            else "choose a smaller model or free memory"
        )
        raise DoesNotFit(
            f"Weights {_size(weight_bytes)} + KV cache {_size(needed * block_bytes)} for {wish} "
            f"({token_bytes} bytes a token) + working memory {_size(WORKING_MEMORY)} "
            f"exceed the available {_size(available)}; {advice}."
        )
    return min(wanted, room)


def _size(n: int) -> str:
    return f"{n / 1e9:.2f} GB" if n >= 10**9 else f"{n / 1e6:.0f} MB"
