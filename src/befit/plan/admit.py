"""Whether a model is worth a download: asked before the first byte of its weights comes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from befit.config import EngineOptions
from befit.errors import DoesNotFit, UnsupportedModel
from befit.plan import fit, source
from befit.plan.machine import given_memory, limited, this_cpu

if TYPE_CHECKING:
    from befit.store.hub_fetch import Wanted

DEFAULTS = EngineOptions()
_OFFERED = 3
"""Alternatives that a refusal lists."""


def check(wanted: Wanted, options: EngineOptions = DEFAULTS) -> None:
    """Raise DoesNotFit, with what would fit, unless this computer has the memory for the model: with the memory and
    the context of the options, else with what is free and at a useful context.

    Reads the headers of the model's files by range requests. Raises UnsupportedModel for a model that befit does not
    run.
    """
    model = source.of_repository(wanted.repository)
    if model.why_not is not None:
        raise UnsupportedModel(
            f"{wanted.repository.name} was not fetched: {model.why_not}. `befit pull --force` fetches it all the same."
        )
    computer = this_cpu(measure=False)
    if options.memory is not None:
        computer = limited(computer, given_memory(options.memory))
    wish = fit.Wish(ctx=options.ctx or model.program.max_context, kv_dtype=options.kv_dtype or "f16")
    wish = wish if options.ctx else fit.choose_ctx(model, computer, wish)
    plan = fit.make(model, computer, wish)
    if plan.fits:
        return
    budget = plan.budget
    others = "; ".join(f"{each.kind} ({each.what})" for each in plan.alternatives[:_OFFERED])
    raise DoesNotFit(
        f"{wanted.repository.name} was not fetched ({wanted.size / 1e9:.1f} GB): with {wish.ctx:,} tokens of context "
        f"it takes {budget.total / 1e9:.1f} GB of memory and {budget.available / 1e9:.1f} GB are there. "
        + (f"What would fit: {others}. " if others else "Take a smaller model. ")
        + "`befit plan` shows the arithmetic; `befit pull --force` fetches it all the same."
    )
