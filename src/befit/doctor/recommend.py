"""What would run well on a machine: three commands, by the arithmetic of `befit plan`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from befit.plan import fit
from befit.plan.machine import Machine
from befit.plan.source import from_known
from befit.store import catalogue

FAMILIES = ("qwen2.5-coder", "smollm2")
"""In order of preference: the first has the widest range of sizes, writes code and fills in the middle."""
COMPLETIONS = "completions as one types"
PURPOSES = (("chat and edits", 10.0), (COMPLETIONS, 40.0), ("the best answers, slowly", 2.5))
"""What a model is for, and the least bound on its tokens a second that this takes. Completions need a model that fills
in the middle."""


@dataclass(frozen=True, slots=True)
class Recommendation:
    """A command to type. bound: tokens a second at most, None where the bandwidth is not known; bytes of memory."""

    command: str
    model: str
    purpose: str
    quantisation: str
    memory: int
    ctx: int
    bound: float | None


def recommend(machine: Machine) -> list[Recommendation]:
    """At most one command a purpose, then the largest models left: three in all, fewer where memory is short."""
    fitting = list(_fitting(machine))
    chosen: dict[str, Recommendation] = {}
    for purpose, least in PURPOSES:
        fast = [each for each in fitting if each.bound is None or each.bound >= least]
        for each in [each for each in fast if purpose != COMPLETIONS or _fills_in(each.model)][:1]:
            chosen.setdefault(each.model, _for(each, purpose))
    for each in fitting if len(chosen) < len(PURPOSES) else ():
        if len(chosen) == len(PURPOSES):
            break
        if each.bound is None or each.bound >= PURPOSES[-1][1]:
            chosen.setdefault(each.model, _for(each, "smaller and faster"))
    return list(chosen.values())


def _fitting(machine: Machine) -> Iterator[Recommendation]:
    """What fits, by preference, the largest models of a family first."""
    name, bits = fit.QUANTISATIONS[-1]
    for family in FAMILIES:
        for each in reversed(catalogue.of_family(family)):
            model = from_known(each.name).requantised(bits, name)
            wish = fit.choose_ctx(model, machine, fit.Wish(ctx=model.program.max_context))
            plan = fit.make(model, machine, wish)
            if plan.fits:
                yield Recommendation(
                    command=f"befit serve {model.name}",
                    model=model.name,
                    purpose="",
                    quantisation=name,
                    memory=plan.budget.used,
                    ctx=wish.ctx,
                    bound=plan.decode_empty,
                )


def _for(each: Recommendation, purpose: str) -> Recommendation:
    return replace(each, purpose=purpose)


def _fills_in(name: str) -> bool:
    found = catalogue.find(name)
    return found is not None and found.model.fim
