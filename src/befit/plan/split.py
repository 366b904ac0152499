"""Which layers stay on a card when not all do: the most that fit, with the others in the computer's own memory."""

from __future__ import annotations

from dataclasses import replace

from befit.models.cut import ACTIVATIONS, cut
from befit.models.program import Program
from befit.plan import fit
from befit.plan.fit import Budget, Wish
from befit.plan.machine import Machine
from befit.plan.memory import Model


def halves(model: Model, layers: int, token_budget: int) -> tuple[Model, Model]:
    """The model's first layers, as they are on a card, and the others, as they are on a CPU."""
    front, back = cut(model.program, layers)
    shapes = {**model.shapes, ACTIVATIONS: (token_budget, model.program.hidden_size)}
    formats = {**model.formats, ACTIVATIONS: "f32"}

    def half(program: Program) -> Model:
        names = program.weight_names()
        mine = {name: shapes[name] for name in names}
        return replace(model, program=program, shapes=mine, formats={name: formats[name] for name in names}, sized={})

    return half(front), half(back)


def budgets(model: Model, layers: int, card: Machine, host: Machine, wish: Wish) -> tuple[Budget, Budget]:
    """What the halves take of the card and of the computer around it."""
    front, back = halves(model, layers, wish.token_budget)
    return fit.budget(front, card, wish), fit.budget(back, host, replace(wish, backend="native"))


def most_layers(model: Model, card: Machine, host: Machine, wish: Wish) -> int | None:
    """The most layers that fit the card while the others fit the computer; None where no cut does both."""
    names = model.program.weight_names()
    if not names or not model.formats.keys() >= set(names):
        return None
    for layers in range(model.program.n_layers - 1, 0, -1):
        on_card, on_host = budgets(model, layers, card, host, wish)
        if on_card.fits:
            return layers if on_host.fits else None  # fewer on the card are more here
    return None
