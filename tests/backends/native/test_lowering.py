"""The native backend runs any program, not only the shapes that families have: what is not fused still works."""

import dataclasses

import numpy as np
import pytest

from befit.errors import UnsupportedModel
from befit.models.program import Act, Add, Attention, Embed, GatedAct, Linear, Logits, Norm, Program
from support.steps import logits_of
from support.tiny import TinyModel, random_matrix, tiny_model

TOKENS = [int(t) for t in np.random.default_rng(1).integers(0, 80, 40)]
HIDDEN = 64


def attention(out, q, k, v, layer=0):
    return Attention(out, q, k, v, layer, n_heads=2, n_kv_heads=1, head_dim=32, scale=0.2)


UNUSUAL = {
    "no norm before the matrices": (
        Linear("q", "h", "w.a"),
        Linear("k", "h", "w.half"),
        Linear("v", "h", "w.half"),
        attention("a", "q", "k", "v"),
        Add("h", "a", "h"),
    ),
    "an activation read twice": (
        Linear("a", "h", "w.a"),
        Act("b", "a", "silu"),
        Add("h", "a", "b"),
    ),
    "a gate without matrices of its own": (
        Linear("a", "h", "w.a"),
        GatedAct("b", "a", "h", "gelu_erf"),
        Linear("c", "b", "w.b"),
        Add("h", "h", "c"),
    ),
    "a residual that is a matrix's input": (
        Linear("a", "h", "w.a"),
        Add("h", "h", "a"),
        Linear("b", "h", "w.b"),
        Add("h", "b", "h"),
    ),
    "a value added to itself": (
        Linear("a", "h", "w.a"),
        Add("a", "a", "a"),
        Add("h", "h", "a"),
    ),
}


def model_of(middle, storage):
    rng = np.random.default_rng(2)
    sizes = {"embed": (80, HIDDEN), "w.a": (HIDDEN, HIDDEN), "w.b": (HIDDEN, HIDDEN), "w.half": (32, HIDDEN)}
    tensors = {name: random_matrix(rng, name, *size, storage) for name, size in sizes.items()}
    tensors["norm"] = dataclasses.replace(random_matrix(rng, "norm", 1, HIDDEN, "f32"), shape=(HIDDEN,))
    tensors["norm"] = dataclasses.replace(tensors["norm"], data=tensors["norm"].data.reshape(-1) + 1)
    ops = (Embed("h", "embed"), *middle, Norm("n", "h", "norm", 1e-5), Logits("n", "embed"))
    return TinyModel({}, tensors, Program("odd", 80, HIDDEN, 1, 256, ops))


@pytest.mark.parametrize("storage", ["f32", "q8_0"])
@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_programs_agree_with_the_reference(load, name, storage):
    model = model_of(UNUSUAL[name], storage)
    native, reference = logits_of(load(model), TOKENS), logits_of(load(model, "reference"), TOKENS)
    assert np.abs(native - reference).max() <= 0.02 * reference.std()
    assert np.array_equal(logits_of(load(model), TOKENS, chunks=[1] * 40), native)


def test_a_head_size_without_kernels_is_refused_by_name(load):
    model = tiny_model("llama")
    ops = tuple(dataclasses.replace(op, head_dim=40) if isinstance(op, Attention) else op for op in model.program.ops)
    odd = dataclasses.replace(model, program=dataclasses.replace(model.program, ops=ops))
    with pytest.raises(UnsupportedModel, match="heads of size 40"):
        load(odd)
