"""Whether a model is worth a download: asked before the first byte of its weights comes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from befit.errors import DoesNotFit, UnsupportedModel
from befit.plan import fit, machine, source

if TYPE_CHECKING:
    from befit.store.hub_fetch import Wanted

_OFFERED = 3
"""Alternatives that a refusal lists."""


def check(wanted: Wanted) -> None:
    """Raise DoesNotFit, with what would fit, unless this computer has the memory for the model at a useful context.

    Reads the headers of the model's files by range requests. Raises UnsupportedModel for a model that befit does not
    run.
    """
    model = source.of_repository(wanted.repository)
    if model.why_not is not None:
        raise UnsupportedModel(
            f"{wanted.repository.name} was not fetched: {model.why_not}. `befit pull --force` fetches it all the same."
        )
    computer = machine.this_cpu()
    wish = fit.choose_ctx(model, computer, fit.Wish(ctx=model.program.max_context))
    plan = fit.make(model, computer, wish)
    if plan.fits:
        return
    budget = plan.budget
    others = "; ".join(f"{each.kind} ({each.what})" for each in plan.alternatives[:_OFFERED])
    raise DoesNotFit(
        f"{wanted.repository.name} was not fetched ({wanted.size / 1e9:.1f} GB): with {wish.ctx:,} tokens of context "
        f"it takes {budget.total / 1e9:.1f} GB of memory and {budget.available / 1e9:.1f} GB are free. "
        + (f"What would fit: {others}. " if others else "Take a smaller model. ")
        + "`befit plan` shows the arithmetic; `befit pull --force` fetches it all the same."
    )
