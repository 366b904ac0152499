"""Turning what the user left on auto into numbers, once, at start: see `EngineConfig` for what each one means.

Every sum is `befit.plan.fit.budget`. Without --memory, or where other models are to have room too, the KV cache gets a
quarter of what is free, with it all that is left of it; but never more than all sequences can use and never less than
one full context. Where that does not fit, there are fewer sequences, then smaller steps, then a shorter context, as far
as the user left these open.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from befit.backends import BLOCK_SIZE
from befit.config import EngineConfig, EngineOptions
from befit.errors import ConfigError, DoesNotFit
from befit.plan import fit
from befit.plan.fit import Budget, Wish
from befit.plan.machine import Machine, given_memory, limited, parse_size, reserve_of, these_cards, this_cpu
from befit.plan.memory import Model
from befit.plan.split import halves, most_layers

DEFAULT_MAX_SEQS = 64
KV_SHARE = 0.25
SPLIT_SEQS = 4
"""Sequences of a model that is split between card and CPU, if nobody says how many."""
_SMALLER = ((64, 512), (32, 512), (16, 512), (8, 512), (4, 256), (2, 256), (1, 128))
"""Sequences and tokens of a step, the first pair that fits."""

_KV_DTYPES = {"native": ("f16", "int8"), "reference": ("f32",), "cuda": ("f16", "int8", "fp8", "f32")}
"""What each backend can keep keys and values as; the first is the default."""


def resolve(
    options: EngineOptions,
    model: Model,
    *,
    root: Path = Path("/"),
    block_size: int = BLOCK_SIZE,
    alone: bool = True,
    shorten: bool = True,
    split: bool = True,
) -> tuple[EngineConfig, Budget]:
    """All settings of an engine, and what they take of memory; of a split model, of the card's.

    alone: no other model is to be loaded beside this one. shorten: a shorter context may make it fit. split: where that
    does not either, layers may go from the card to the CPU, if the model is alone. Raises ConfigError for impossible
    wishes, DoesNotFit for lack of memory. A KV page has room for `model.draft` too.
    """
    _check(options)
    backend = auto_backend(options) if options.backend == "auto" else options.backend
    if backend not in _KV_DTYPES:
        raise ConfigError(f"backend is {backend!r}; choose auto, native, cuda or reference.")
    kv_dtype = options.kv_dtype or _KV_DTYPES[backend][0]
    if kv_dtype not in _KV_DTYPES[backend]:
        raise ConfigError(
            f"kv_dtype is {kv_dtype!r}; the {backend} backend keeps keys and values as "
            f"{' or '.join(_KV_DTYPES[backend])}."
        )
    machine = _machine(options, root, backend)
    ctx = _ctx(options, model)
    cached = options.kv_tokens or max(ctx, (options.max_seqs or 1) * block_size)
    least = Wish(ctx=ctx, kv_dtype=kv_dtype, backend=backend, kv_tokens=_whole(cached, block_size))
    card_layers = None
    try:
        wish = _fitting(options, model, machine, least, block_size, shorten=shorten)
        n_blocks = _blocks(options, model, machine, wish, block_size, alone=alone)
    except DoesNotFit:
        found = None
        if split and shorten and alone:
            found = _split(options, model, machine, least, block_size, root)
        if found is None:
            raise
        wish, card_layers = found
        n_blocks = wish.cached // block_size
    max_seqs = min(wish.seqs, n_blocks)
    if options.max_seqs is not None and options.max_seqs > n_blocks:
        raise ConfigError(
            f"max_seqs is {options.max_seqs} but the KV cache has {n_blocks} pages of {block_size} tokens and each "
            f"sequence needs one; set max_seqs to at most {n_blocks} or enlarge kv_tokens."
        )
    config = EngineConfig(
        ctx=wish.ctx,
        max_seqs=max_seqs,
        token_budget=wish.token_budget,
        block_size=block_size,
        n_blocks=n_blocks,
        threads=machine.threads if card_layers is None else _host(options, root).threads,
        backend=backend,
        kv_dtype=kv_dtype,
        prefix_cache=options.prefix_cache,
        max_queue=options.max_queue,
        speculation=options.speculation if card_layers is None else "off",
        draft=options.draft,
        loop_guard=options.loop_guard,
        max_output_tokens=options.max_output_tokens,
        card_layers=card_layers,
    )
    return config, budget(config, model, machine)


def budget(config: EngineConfig, model: Model, machine: Machine) -> Budget:
    """What settings take of memory: at most so much, when the KV cache is full and every sequence runs."""
    wish = Wish(
        ctx=config.ctx,
        seqs=config.max_seqs,
        kv_tokens=config.n_blocks * config.block_size,
        kv_dtype=config.kv_dtype,
        token_budget=config.token_budget,
        backend=config.backend,
    )
    if config.card_layers is not None:
        model = halves(model, config.card_layers, config.token_budget)[0]
    return fit.budget(model, machine, wish)


def table(config: EngineConfig, needed: Budget, model: Model, notes: Sequence[str] = ()) -> str:
    """The resolved settings for people to read, a line a subject, and a line a note on the weights."""
    program = model.program
    rows = {
        "model": f"{model.name} ({program.family}, {program.n_layers} layers, {model.stored})",
        "context": f"{config.ctx} tokens (the model allows {program.max_context})",
        "KV cache": f"{config.n_blocks * config.block_size} tokens in pages of {config.block_size}, {config.kv_dtype}; "
        f"prefix cache {'on' if config.prefix_cache else 'off'}",
        "batch": f"{config.max_seqs} sequences at once, {config.token_budget} tokens a step",
        "memory": f"{_sum(needed)}, of {_size(needed.available)}",
        "backend": "cuda" if config.backend == "cuda" else f"{config.backend}, {_threads(config.threads)}",
        "speculation": _speculation(config),
    }
    if config.card_layers is not None:
        rest = halves(model, config.card_layers, config.token_budget)[1]
        rows["layers"] = (
            f"{config.card_layers} of {program.n_layers} on the card, the others on {_threads(config.threads)} of the "
            f"CPU, with {_size(rest.memory_bytes)} of weights there"
        )
    width = max(map(len, rows))
    return "\n".join(f"{key:<{width}}  {value}" for key, value in [*rows.items(), *(("note", note) for note in notes)])


def _check(options: EngineOptions) -> None:
    for name in ("ctx", "max_seqs", "token_budget", "kv_tokens", "threads", "max_queue", "max_output_tokens"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ConfigError(f"{name} is {value}; it must be at least 1.")
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
    if options.token_budget is not None and options.token_budget < (options.max_seqs or 1):
        raise ConfigError(
            f"token_budget is {options.token_budget}, too few for max_seqs {options.max_seqs} sequences to get a token "
            "each step; raise it or lower max_seqs."
        )


def auto_backend(options: EngineOptions) -> str:
    """cuda where a driver tells of a card, torch is installed and sees it too, and nothing asks for what it lacks."""
    from befit.backends.cuda import device
    from befit.plan import nvml

    if options.kv_dtype not in (None, *_KV_DTYPES["cuda"]) or not nvml.detect() or not device.installed():
        return "native"
    try:
        return "cuda" if device.choose_target().is_cuda else "native"
    except ConfigError:
        return "native"


def machine_of(options: EngineOptions) -> Machine:
    """What the options' models are to fit: this machine's memory or a card's, or so much of it as they say."""
    return _machine(options, Path("/"), auto_backend(options) if options.backend == "auto" else options.backend)


def _machine(options: EngineOptions, root: Path, backend: str) -> Machine:
    machine = this_cpu(measure=False, root=root, threads=options.threads)
    if backend == "cuda":
        from befit.backends.cuda.device import choose_target

        target = choose_target()
        cards = these_cards() if target.is_cuda else []
        number = int(target.device.partition(":")[2] or 0)
        if number < len(cards):
            machine = replace(cards[number], reserve=reserve_of(cards[number].available))
        elif target.is_cuda:
            raise ConfigError(
                f"torch sees {target.device} but the driver's library tells of {len(cards)} cards, so its free memory "
                "is not known; check the driver with nvidia-smi, or choose --backend native."
            )
    if options.memory is None:
        return machine
    if machine.kind == "gpu":
        return limited(machine, parse_size(str(options.memory)))
    return limited(machine, given_memory(options.memory, root))


def _ctx(options: EngineOptions, model: Model) -> int:
    longest = model.program.max_context
    if options.ctx is not None and options.ctx > longest:
        raise ConfigError(f"ctx is {options.ctx} but the model allows {longest} tokens; set ctx to at most {longest}.")
    ctx = options.ctx or min(longest, fit.DEFAULT_CTX)
    if options.kv_tokens is not None and options.kv_tokens < ctx:
        if options.ctx is not None:
            raise ConfigError(
                f"ctx is {ctx} but kv_tokens gives the KV cache {options.kv_tokens} tokens; "
                f"set ctx to at most {options.kv_tokens} or kv_tokens to at least {ctx}."
            )
        ctx = options.kv_tokens
    return ctx


def _fitting(
    options: EngineOptions, model: Model, machine: Machine, least: Wish, block_size: int, *, shorten: bool
) -> Wish:
    """The wish with as many sequences and as large steps as fit beside the least KV cache. Raises DoesNotFit."""
    for seqs, tokens in _batches(options, least.cached // block_size):
        wish = replace(least, seqs=seqs, token_budget=tokens)
        if fit.budget(model, machine, wish).fits:
            return wish
    if shorten and options.ctx is None and options.kv_tokens is None:
        ctx = fit.rounded(fit.largest_ctx(model, machine, wish))
        if fit.USEFUL_CTX <= ctx < wish.ctx:
            return wish.shorter(_whole(ctx, block_size))
    raise _refusal(options, model, machine, wish)


def _batches(options: EngineOptions, pages: int) -> Iterator[tuple[int, int]]:
    """Sequences and tokens of a step, the most first; each sequence needs a page of what the user gave the cache."""
    most = DEFAULT_MAX_SEQS if options.kv_tokens is None else pages
    for usual, tokens in _SMALLER:
        seqs = options.max_seqs or min(usual, most, options.token_budget or usual)
        yield seqs, options.token_budget or max(tokens, 2 * seqs)


def _split(
    options: EngineOptions, model: Model, machine: Machine, least: Wish, block_size: int, root: Path
) -> tuple[Wish, int] | None:
    """The wish with which some layers fit the card and the others this computer, and how many; None if none does.

    Few sequences: the CPU's part takes most of the time, and a card's memory is better spent on layers.
    """
    if least.backend != "cuda" or machine.kind != "gpu":
        return None
    if model.draft is not None or options.speculation == "lookup" or least.kv_dtype not in _KV_DTYPES["native"]:
        return None
    host = _host(options, root)
    for seqs, tokens in _batches(options, least.cached // block_size):
        if options.max_seqs is None and seqs > SPLIT_SEQS:
            continue
        wish = replace(least, seqs=seqs, token_budget=tokens)
        layers = most_layers(model, machine, host, wish)
        if layers is not None:
            return wish, layers
    return None


def _host(options: EngineOptions, root: Path) -> Machine:
    """The computer around a card."""
    return this_cpu(measure=False, root=root, threads=options.threads)


def _blocks(options: EngineOptions, model: Model, machine: Machine, wish: Wish, block_size: int, *, alone: bool) -> int:
    """Pages of the KV cache."""
    least = wish.cached // block_size
    if options.kv_tokens is not None:
        return least
    page = block_size * fit.token_bytes(model, wish.kv_dtype)
    room = fit.room(model, machine, wish) // page
    # Nobody else needs what is left of a card, or of what was given.
    all_of_it = alone and (options.memory is not None or machine.kind == "gpu")
    share = room if all_of_it else int(machine.available * KV_SHARE) // page
    usable = wish.seqs * _whole(wish.ctx, block_size) // block_size
    return min(room, max(least, min(usable, share)))


def _refusal(options: EngineOptions, model: Model, machine: Machine, wish: Wish) -> DoesNotFit:
    needed = fit.budget(model, machine, wish)
    held = f"kv_tokens {options.kv_tokens}" if options.kv_tokens is not None else f"one context of {wish.ctx} tokens"
    lines = [
        f"{model.name} does not fit: {_sum(needed)}, of {_size(needed.available)} ({machine.source}). The KV cache is "
        f"for {held} of {fit.token_bytes(model, wish.kv_dtype)} bytes."
    ]
    tokens = fit.room(model, machine, wish) // fit.token_bytes(model, wish.kv_dtype)
    if options.kv_tokens is not None and tokens >= fit.LEAST_CTX:
        lines.append(f"  smaller KV cache: {fit.rounded(tokens)} tokens (--kv-tokens {fit.rounded(tokens)})")
    lines += [
        f"  {each.kind}: {each.what}{f' ({each.option})' if each.option else ''}, {_size(each.total)}"
        for each in fit.alternatives(model, machine, wish)
    ]
    if len(lines) == 1:
        return DoesNotFit(f"{lines[0]} Nothing that befit knows of would fit: take a smaller model, or free memory.")
    lines.insert(1, "What would fit, what costs least first:")
    return DoesNotFit("\n".join(lines))


def _sum(needed: Budget) -> str:
    parts = {
        "weights": needed.weights,
        "KV cache": needed.kv,
        "activations": needed.activations,
        "process": needed.overhead,
        "reserve": needed.reserve,
    }
    return f"{' + '.join(f'{name} {_size(size)}' for name, size in parts.items())} = {_size(needed.total)}"


def _speculation(config: EngineConfig) -> str:
    sources = ["prompt lookup"] if config.speculation in ("auto", "lookup") else []
    if config.draft is not None:
        sources.append(f"draft model {config.draft}")
    return " and ".join(sources) or "off"


def _threads(count: int) -> str:
    return f"{count} thread{'s' if count > 1 else ''}"


def _whole(tokens: int, block_size: int) -> int:
    """So many tokens in whole pages."""
    return -(-tokens // block_size) * block_size


def _size(n: int) -> str:
    return f"{n / 1e9:.2f} GB" if n >= 10**9 else f"{n / 1e6:.0f} MB"
