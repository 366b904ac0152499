"""Whether a model fits a machine, how large and how fast it can be there, and what would fit when it does not.

    weights + KV cache + activations + overhead <= available

Speeds are bounds that no program can beat, not predictions: a step reads the weights and the KV cache of its context
once (bandwidth / bytes), and a prompt takes its multiply-adds (at the rate of the matrix units) or one reading of the
weights, whichever is longer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod

from befit.plan import known
from befit.plan.machine import Machine
from befit.plan.memory import Model, activation_bytes, kv_bytes_per_token, layer_kv_bytes

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
    """What the model is to do: contexts of `ctx` tokens in `seqs` sequences at once, steps of `token_budget` tokens."""

    ctx: int
    seqs: int = 1
    kv_dtype: str = "f16"
    token_budget: int = DEFAULT_TOKEN_BUDGET
    prompt: int = DEFAULT_PROMPT


@dataclass(frozen=True, slots=True)
class Budget:
    """Bytes by purpose."""

    weights: int
    kv: int
    activations: int
    overhead: int
    available: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.kv + self.activations + self.overhead

    @property
    def fits(self) -> bool:
        """Whether that is there."""
        return self.total <= self.available


@dataclass(frozen=True, slots=True)
class Alternative:
    """Something that would fit: what to change, what that takes, the context it allows and its speed bound."""

    kind: str
    what: str
    total: int
    ctx: int
    decode: float | None


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


def make(model: Model, machine: Machine, wish: Wish, host: Machine | None = None) -> Plan:
    """The plan. `host` is the computer around a card, which may take over some layers."""
    budget = _budget(model, machine, wish)
    return Plan(
        model=model,
        machine=machine,
        wish=wish,
        budget=budget,
        largest_ctx=_largest_ctx(model, machine, replace(wish, seqs=1)),
        most_seqs=max(0, _room(model, machine, wish) // (wish.ctx * kv_bytes_per_token(model.program, wish.kv_dtype))),
        decode_empty=_decode(model, machine, replace(wish, ctx=0)),
        decode_full=_decode(model, machine, wish),
        ttft=_first_token(model, machine, wish.prompt),
        alternatives=() if budget.fits else tuple(_alternatives(model, machine, wish, host)),
    )


def choose_ctx(model: Model, machine: Machine, wish: Wish) -> Wish:
    """The wish with the context that befit takes where none is asked for: the model's up to 8192 tokens, or less if
    that makes it fit and is of use."""
    usual = replace(wish, ctx=min(model.program.max_context, DEFAULT_CTX))
    longest = _rounded(_largest_ctx(model, machine, usual))
    return replace(usual, ctx=longest) if USEFUL_CTX <= longest < usual.ctx else usual


def _budget(model: Model, machine: Machine, wish: Wish) -> Budget:
    return Budget(
        weights=model.weight_bytes,
        kv=wish.ctx * wish.seqs * kv_bytes_per_token(model.program, wish.kv_dtype),
        activations=activation_bytes(model, wish.token_budget, wish.seqs),
        overhead=machine.overhead,
        available=machine.available,
    )


def _room(model: Model, machine: Machine, wish: Wish) -> int:
    """Bytes that are left for the KV cache; below 0 when the weights alone are too much."""
    budget = _budget(model, machine, wish)
    return budget.available - (budget.total - budget.kv)


def _largest_ctx(model: Model, machine: Machine, wish: Wish) -> int:
    tokens = _room(model, machine, wish) // (wish.seqs * kv_bytes_per_token(model.program, wish.kv_dtype))
    return max(0, min(tokens, model.program.max_context))


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


def _alternatives(model: Model, machine: Machine, wish: Wish, host: Machine | None) -> Iterator[Alternative]:
    """What would fit, what costs least first: sequences, the exactness of the cache, that of the weights, length,
    speed, and last the model itself."""
    if wish.seqs > 1:
        seqs = wish.seqs
        while seqs > 1 and not _budget(model, machine, replace(wish, seqs=seqs)).fits:
            seqs -= 1
        what = f"{seqs} at once instead of {wish.seqs}"
        yield from _fitting(model, machine, replace(wish, seqs=seqs), "fewer sequences", what)
    if wish.kv_dtype != "int8":
        yield from _fitting(model, machine, replace(wish, kv_dtype="int8"), "int8 KV cache", "half of its memory")
    longest = _rounded(_largest_ctx(model, machine, wish))
    if 2 * longest >= wish.ctx:
        yield from _fitting(model, machine, replace(wish, ctx=longest), "shorter context", f"{longest} tokens")
    smaller = [(name, bits) for name, bits in QUANTISATIONS if bits < 0.97 * _bits(model)]
    for name, bits in smaller:
        yield from _fitting(model.requantised(bits, name), machine, wish, "quantisation", name)
    if LEAST_CTX <= longest < wish.ctx / 2:
        yield from _fitting(model, machine, replace(wish, ctx=longest), "shorter context", f"{longest} tokens")
    for name, bits in smaller:
        other = model.requantised(bits, name)
        ctx = _rounded(_largest_ctx(other, machine, wish))
        if LEAST_CTX <= ctx < wish.ctx:
            what = f"{name} and {ctx} tokens"
            yield from _fitting(other, machine, replace(wish, ctx=ctx), "quantisation and shorter context", what)
    if host is not None:
        yield from _split(model, machine, wish, host)
    yield from _smaller_models(model, machine, wish)


def _fitting(model: Model, machine: Machine, wish: Wish, kind: str, what: str) -> Iterator[Alternative]:
    budget = _budget(model, machine, wish)
    if budget.fits:
        longest = _largest_ctx(model, machine, replace(wish, seqs=1))
        yield Alternative(kind, what, budget.total, longest, _decode(model, machine, wish))


def _split(model: Model, machine: Machine, wish: Wish, host: Machine) -> Iterator[Alternative]:
    """The most layers that stay on the card, their part of the KV cache with them."""
    budget = _budget(model, machine, wish)
    layers = model.program.n_layers
    in_layers = sum(size for kind, size in model.weights.items() if kind not in ("embedding", "head"))
    layer = (in_layers + budget.kv) / layers
    fixed = budget.total - layer * layers
    kept = int((machine.available - fixed) // layer)
    moved = layer * (layers - kept)
    if not 0 < kept < layers or moved + host.overhead > host.available:
        return
    decode = None
    if machine.bandwidth and host.bandwidth:
        read = model.bytes_per_token + wish.seqs * _kv_read(model, wish.ctx, wish.kv_dtype)
        share = moved / (layer * layers)
        decode = 1 / (read * (1 - share) / machine.bandwidth + read * share / host.bandwidth)
    what = f"{layers - kept} of {layers} layers, in {moved / 1e9:.1f} GB of this machine's memory"
    yield Alternative("layers on the CPU", what, round(fixed + layer * kept), wish.ctx, decode)


def _smaller_models(model: Model, machine: Machine, wish: Wish) -> Iterator[Alternative]:
    """Smaller models of the family, the largest first: as they are stored now if that fits, else at 4 bits."""
    from befit.plan.source import from_known

    if model.catalogue_family is None:
        return
    family = model.catalogue_family
    for tag in reversed(known.FAMILIES[family]):
        other = from_known(family, tag)
        if other.parameters >= 0.95 * model.parameters:
            continue
        wanted = replace(wish, ctx=min(wish.ctx, other.program.max_context))
        for name, bits in ((model.stored, _bits(model)), QUANTISATIONS[-1]):
            smaller = other.requantised(bits, name)
            found = list(_fitting(smaller, machine, wanted, "smaller model", f"{other.name}, {name}"))
            if found:
                yield from found
                break


def _bits(model: Model) -> float:
    """Bits a weight, on average."""
    return 8 * model.weight_bytes / model.parameters


def _rounded(ctx: int) -> int:
    """A context to propose: a round number not above."""
    step = 1024 if ctx >= 4096 else 256 if ctx >= 1024 else 16
    return ctx // step * step
