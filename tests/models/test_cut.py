"""A program cut in two computes what the whole does."""

from __future__ import annotations

import pytest

from befit.models.cut import ACTIVATIONS, cut
from befit.models.program import Attention, Embed, Logits
from support.tiny import FAMILY_NAMES, tiny_model


@pytest.mark.parametrize("family", FAMILY_NAMES)
@pytest.mark.parametrize("layers", [1, 2])
def test_halves_have_their_layers_and_weights(family, layers):
    program = tiny_model(family, n_layers=3).program
    front, back = cut(program, layers)
    assert [op.layer for op in front.attentions()] == list(range(layers))
    assert [op.layer for op in back.attentions()] == list(range(layers, 3))
    assert isinstance(front.ops[0], Embed)
    assert not isinstance(front.ops[-1], Logits | Attention)
    assert isinstance(back.ops[-1], Logits)
    assert back.ops[0] == Embed(front.ops[-1].out, ACTIVATIONS)
    assert len(front.ops) + len(back.ops) == len(program.ops) + 1
    named = {*front.weight_names(), *back.weight_names()} - {ACTIVATIONS}
    assert named == set(program.weight_names())
    assert {name for name in front.weight_names() if name.startswith("blk.")} == {
        name for name in program.weight_names() if name.startswith(tuple(f"blk.{i}." for i in range(layers)))
    }


@pytest.mark.parametrize("layers", [0, 3, -1])
def test_a_cut_that_leaves_nothing_is_refused(layers):
    with pytest.raises(ValueError, match="of 3 layers"):
        cut(tiny_model("llama", n_layers=3).program, layers)
