"""Whether a model fits a machine, how large and how fast it can be there, and what would fit when it does not.

    weights + KV cache + activations + overhead + reserve <= available

Speeds are bounds that no program can beat, not predictions: a step reads the weights and the KV cache of its context
once (bandwidth / bytes), and a prompt takes its multiply-adds (at the rate of the matrix units) or one reading of the
weights, whichever is longer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import prod

from befit.backends.cuda.size import step_bytes, weight_bytes
from befit.config import SCORE_ROWS
from befit.plan.machine import Machine
from befit.plan.memory import Model, activation_bytes, kv_bytes_per_token, layer_kv_bytes, plain_activation_bytes

DEFAULT_CTX = 8192
DEFAULT_TOKEN_BUDGET = 512
DEFAULT_PROMPT = 1024
USEFUL_CTX = 2048
"""The least that befit chooses by itself."""
LEAST_CTX = 512
"""A shorter context is no use to anyone."""

QUANTISATIONS = (("8-bit (Q8_0)", 8.5), ("6-bit (Q6_K)", 6.57), ("5-bit (Q5_K_M)", 5.69), ("4-bit (Q4_K_M)", 4.85))
"""Bits a weight over all matrices, scales included; the _M mixtures keep some matrices at 6 bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What the model is to do: contexts of `ctx` tokens in `seqs` sequences at once, steps of `token_budget` tokens.

    kv_tokens: what the KV cache holds; None is a full context for every sequence.
    """

    ctx: int
    seqs: int = 1
    kv_tokens: int | None = None
    kv_dtype: str = "f16"
    token_budget: int = DEFAULT_TOKEN_BUDGET
    prompt: int = DEFAULT_PROMPT
    backend: str = "native"

    @property
    def cached(self) -> int:
        """Tokens that the KV cache holds."""
        return self.ctx * self.seqs if self.kv_tokens is None else self.kv_tokens

    def shorter(self, ctx: int) -> Wish:
        """The same with another context; a KV cache of its own size has room for it and no more."""
        return replace(self, ctx=ctx, kv_tokens=None if self.kv_tokens is None else ctx)


@dataclass(frozen=True, slots=True)
class Budget:
    """Bytes by purpose."""

    weights: int
    kv: int
    activations: int
    overhead: int
    reserve: int
    available: int

    @property
    def used(self) -> int:
        """What the process will take at most."""
        return self.weights + self.kv + self.activations + self.overhead

    @property
    def total(self) -> int:
        """That and what stays free."""
        return self.used + self.reserve

    @property
    def fits(self) -> bool:
        """Whether that is there."""
        return self.total <= self.available


@dataclass(frozen=True, slots=True)
class Alternative:
    """Something that would fit: what to change, what that takes, the context it allows and its speed bound.

    option: the flag of `befit serve` that does it; empty where that takes another file.
    """

    kind: str
    what: str
    total: int
    ctx: int
    decode: float | None
    option: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """The answer for one model on one machine. Bounds are None where the machine's speed is unknown."""

    model: Model
    machine: Machine
    wish: Wish
    budget: Budget
    largest_ctx: int
    most_seqs: int
    decode_empty: float | None
    decode_full: float | None
    ttft: float | None
    alternatives: tuple[Alternative, ...]

    @property
    def fits(self) -> bool:
        """Whether the wish fits the machine."""
        return self.budget.fits


def make(model: Model, machine: Machine, wish: Wish, host: Callable[[], Machine] | None = None) -> Plan:
    """The plan. `host()` is the computer around a card, which may take over some layers; asked where that matters."""
    needed = budget(model, machine, wish)
    return Plan(
        model=model,
        machine=machine,
        wish=wish,
        budget=needed,
        largest_ctx=largest_ctx(model, machine, replace(wish, seqs=1)),
        most_seqs=max(0, room(model, machine, wish) // (wish.ctx * token_bytes(model, wish.kv_dtype))),
        decode_empty=_decode(model, machine, replace(wish, ctx=0)),
        decode_full=_decode(model, machine, wish),
        ttft=_first_token(model, machine, wish.prompt),
        alternatives=() if needed.fits else tuple(alternatives(model, machine, wish, host)),
    )


def choose_ctx(model: Model, machine: Machine, wish: Wish) -> Wish:
    """The wish with the context that befit takes where none is asked for: the model's up to 8192 tokens, or less if
    that makes it fit and is of use."""
    usual = replace(wish, ctx=min(model.program.max_context, DEFAULT_CTX))
    longest = rounded(largest_ctx(model, machine, usual))
    return replace(usual, ctx=longest) if USEFUL_CTX <= longest < usual.ctx else usual


def budget(model: Model, machine: Machine, wish: Wish) -> Budget:
    """Bytes by purpose: the one sum that `befit plan` shows and that the engine's settings are made by."""
    rows = wish.seqs + SCORE_ROWS
    if wish.backend == "reference":  # float32, made of the file's weights at the start
        weights = sum(4 * part.parameters for part in model.parts)
        activations = sum(plain_activation_bytes(part, wish.token_budget, rows) for part in model.parts)
    elif wish.backend == "cuda":
        weights = sum(_card_weights(part, 2 if machine.kind == "gpu" else 4) for part in model.parts)
        activations = sum(
            step_bytes(part.program, part.shapes, wish.token_budget, rows, wish.ctx) for part in model.parts
        )
    else:
        packed = machine.kind == "cpu"
        weights = sum(part.memory_bytes if packed else part.weight_bytes for part in model.parts)
        activations = sum(
            activation_bytes(part, wish.token_budget, rows, threads=machine.threads, ctx=wish.ctx)
            for part in model.parts
        )
    return Budget(
        weights=weights,
        kv=wish.cached * token_bytes(model, wish.kv_dtype),
        activations=activations,
        overhead=machine.overhead + sum(machine.token_overhead * part.program.vocab_size for part in model.parts),
        reserve=machine.reserve,
        available=machine.available,
    )


def _card_weights(model: Model, element: int) -> int:
    """Bytes of weights as the CUDA backend keeps them; as stored, where the formats are not known."""
    names = model.program.weight_names()
    if not model.formats or not model.formats.keys() >= set(names):
        return model.weight_bytes
    return sum(model.fp8.get(name) or weight_bytes(model.formats[name], model.shapes[name], element) for name in names)


def token_bytes(model: Model, kv_dtype: str) -> int:
    """Bytes of KV cache that a token takes in the model and its draft model."""
    return sum(kv_bytes_per_token(part.program, kv_dtype) for part in model.parts)


def room(model: Model, machine: Machine, wish: Wish) -> int:
    """Bytes that are left for the KV cache; below 0 when the weights alone are too much."""
    needed = budget(model, machine, wish)
    return needed.available - (needed.total - needed.kv)


def largest_ctx(model: Model, machine: Machine, wish: Wish) -> int:
    """Tokens of the longest context that the wish could have instead, 0 when not even one fits.

    Longer contexts take more of the activations too, so what is left is asked for with what it would allow.
    """
    longest = model.program.max_context
    sequences = 1 if wish.kv_tokens is not None else wish.seqs
    each = sequences * token_bytes(model, wish.kv_dtype)
    low, high = 0, longest + 1  # the largest that fits lies in low .. high - 1
    guess = room(model, machine, replace(wish, ctx=0)) // each
    high = min(high, max(0, guess) + 1)
    while high - low > 1:
        middle = (low + high) // 2
        if room(model, machine, replace(wish, ctx=middle)) >= middle * each:
            low = middle
        else:
            high = middle
    return low


def _decode(model: Model, machine: Machine, wish: Wish) -> float | None:
    """Tokens a second of each sequence at most, when the contexts of all of them are full."""
    if machine.bandwidth is None:
        return None
    return machine.bandwidth / (model.bytes_per_token + wish.seqs * _kv_read(model, wish.ctx, wish.kv_dtype))


def _kv_read(model: Model, context: int, kv_dtype: str) -> int:
    """Bytes of the KV cache that a step reads: windowed layers look no further than their window."""
    return sum(min(context, op.window or context) * layer_kv_bytes(op, kv_dtype) for op in model.program.attentions())


def _first_token(model: Model, machine: Machine, prompt: int) -> float | None:
    """Seconds to the first token of a prompt at least."""
    if machine.bandwidth is None or machine.rate is None:
        return None
    head = prod(model.shapes.get("output.weight", model.shapes["token_embd.weight"]))
    seen = sum(
        op.n_heads * 2 * op.head_dim * prompt * min(prompt, 2 * (op.window or prompt)) / 2
        for op in model.program.attentions()
    )
    products = (model.active_parameters - head) * prompt + head + seen
    return max(products / machine.rate, model.weight_bytes / machine.bandwidth)


# -- what would fit ---------------------------------------------------------------------------------------------------


def alternatives(
    model: Model, machine: Machine, wish: Wish, host: Callable[[], Machine] | None = None
) -> Iterator[Alternative]:
    """What would fit, what costs least first: sequences, the exactness of the cache, that of the weights, length,
    speed, and last the model itself."""
    if model.draft is not None:
        yield from _fitting(replace(model, draft=None), machine, wish, "no draft model", f"without {model.draft.name}")
    if wish.seqs > 1:
        seqs = wish.seqs
        while seqs > 1 and not budget(model, machine, replace(wish, seqs=seqs)).fits:
            seqs -= 1
        what = f"{seqs} at once instead of {wish.seqs}"
        yield from _fitting(model, machine, replace(wish, seqs=seqs), "fewer sequences", what, f"--max-seqs {seqs}")
    halved = replace(wish, kv_dtype="int8")
    if wish.kv_dtype == "f16":
        yield from _fitting(model, machine, halved, "int8 KV cache", "half of its memory", "--kv-dtype int8")
    longest = rounded(largest_ctx(model, machine, wish))
    shorter = (wish.shorter(longest), "shorter context", f"{longest} tokens", f"--ctx {longest}")
    if wish.ctx / 2 <= longest < wish.ctx:
        yield from _fitting(model, machine, *shorter)
    smaller = [(name, bits) for name, bits in QUANTISATIONS if bits < 0.97 * _bits(model)]
    for name, bits in smaller:
        yield from _fitting(model.requantised(bits, name), machine, wish, "quantisation", name)
    if LEAST_CTX <= longest < wish.ctx / 2:
        yield from _fitting(model, machine, *shorter)
    if wish.kv_dtype == "f16":
        ctx = rounded(largest_ctx(model, machine, halved))
        if LEAST_CTX <= ctx < wish.ctx and ctx > longest:
            both, option = halved.shorter(ctx), f"--kv-dtype int8 --ctx {ctx}"
            yield from _fitting(model, machine, both, "int8 KV cache and shorter context", f"{ctx} tokens", option)
    for name, bits in smaller:
        other = model.requantised(bits, name)
        ctx = rounded(largest_ctx(other, machine, wish))
        if LEAST_CTX <= ctx < wish.ctx:
            what = f"{name} and {ctx} tokens"
            yield from _fitting(other, machine, wish.shorter(ctx), "quantisation and shorter context", what)
    if host is not None:
        yield from _split(model, machine, wish, host())
    yield from _smaller_models(model, machine, wish)


def _fitting(
    model: Model, machine: Machine, wish: Wish, kind: str, what: str, option: str = ""
) -> Iterator[Alternative]:
    needed = budget(model, machine, wish)
    if needed.fits:
        longest = largest_ctx(model, machine, replace(wish, seqs=1))
        yield Alternative(kind, what, needed.total, longest, _decode(model, machine, wish), option)


def _split(model: Model, machine: Machine, wish: Wish, host: Machine) -> Iterator[Alternative]:
    """The most layers that stay on the card, their part of the KV cache with them."""
    needed = budget(model, machine, wish)
    layers = model.program.n_layers
    in_layers = sum(size for kind, size in model.weights.items() if kind not in ("embedding", "head"))
    layer = (in_layers + needed.kv) / layers
    fixed = needed.total - layer * layers
    kept = int((machine.available - fixed) // layer)
    moved = layer * (layers - kept)
    if not 0 < kept < layers or moved + host.overhead > host.available:
        return
    decode = None
    if machine.bandwidth and host.bandwidth:
        read = model.bytes_per_token + wish.seqs * _kv_read(model, wish.ctx, wish.kv_dtype)
        share = moved / (layer * layers)
        decode = 1 / (read * (1 - share) / machine.bandwidth + read * share / host.bandwidth)
    what = f"{kept} of {layers} layers on the card, the others in {moved / 1e9:.1f} GB of this machine's memory"
    yield Alternative("layers on the CPU", what, round(fixed + layer * kept), wish.ctx, decode)


def _smaller_models(model: Model, machine: Machine, wish: Wish) -> Iterator[Alternative]:
    """Smaller models of the family, the largest first: as they are stored now if that fits, else at 4 bits."""
    from befit.plan.source import from_known
    from befit.store import catalogue

    for each in reversed(catalogue.of_family(model.catalogue_family or "")):
        other = from_known(each.name)
        if other.parameters >= 0.95 * model.parameters:
            continue
        wanted = wish if wish.ctx <= other.program.max_context else wish.shorter(other.program.max_context)
        for name, bits in ((model.stored, _bits(model)), QUANTISATIONS[-1]):
            smaller = other.requantised(bits, name)
            found = list(_fitting(smaller, machine, wanted, "smaller model", f"{other.name}, {name}"))
            if found:
                yield from found
                break


def _bits(model: Model) -> float:
    """Bits a weight, on average."""
    return 8 * model.weight_bytes / model.parameters


def rounded(ctx: int) -> int:
    """A context to propose: a round number not above."""
    step = 1024 if ctx >= 4096 else 256 if ctx >= 1024 else 16
    return ctx // step * step
