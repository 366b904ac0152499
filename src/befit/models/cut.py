"""A program in two, for two backends: the first layers up to the residual stream, and the rest from there on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from befit.models.program import Attention, Embed, Op, Program

ACTIVATIONS = "activations"
"""The table that the second half looks its tokens up in: row t is what the first half made of token t of the step."""
_READS = ("x", "a", "b", "q", "k", "v", "gate", "up")


def cut(program: Program, layers: int) -> tuple[Program, Program]:
    """(the first `layers` layers, which end in the value that crosses; the others, which begin with it).

    The first half has no head: its result is that of its last op. The second begins with an `Embed` of `ACTIVATIONS`.
    Raises ValueError unless 0 < layers < n_layers and a single value crosses somewhere between the two layers.
    """
    attentions = [i for i, op in enumerate(program.ops) if isinstance(op, Attention)]
    if not 0 < layers < len(attentions):
        raise ValueError(f"cut behind {layers} of {len(attentions)} layers")
    for i in reversed(range(attentions[layers - 1], attentions[layers])):
        live = _live(program.ops[i + 1 :])
        if live == {getattr(program.ops[i], "out", "")}:
            (value,) = live
            front = replace(program, ops=program.ops[: i + 1], n_layers=layers)
            back = (Embed(value, ACTIVATIONS), *program.ops[i + 1 :])
            return front, replace(program, ops=back, n_layers=program.n_layers - layers)
    raise ValueError(f"more than one value crosses everywhere between layers {layers - 1} and {layers}")


def _live(ops: Sequence[Op]) -> set[str]:
    """The names that these ops read before they write them."""
    live: set[str] = set()
    written: set[str] = set()
    for op in ops:
        live |= {name for field in _READS if (name := getattr(op, field, None)) is not None} - written
        written.add(getattr(op, "out", ""))
    return live
