"""How many layers stay on a card that has no room for all of them."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import pytest

from befit.models import describe
from befit.plan.fit import Wish
from befit.plan.machine import Machine
from befit.plan.memory import Model, by_class, parameters
from befit.plan.split import budgets, halves, most_layers

GB = 10**9
CARD = Machine(name="card", kind="gpu", available=8 * GB, bandwidth=None, rate=None, overhead=GB // 2, source="")
HOST = Machine(name="host", kind="cpu", available=32 * GB, bandwidth=None, rate=None, overhead=GB // 10, source="")
WISH = Wish(ctx=4096, seqs=1, token_budget=128, backend="cuda")


@pytest.fixture(scope="module")
def model() -> Model:
    """The shapes of Llama 7B in bfloat16: 13.5 GB."""
    hidden, ffn, vocab, layers = 4096, 11008, 32000, 32
    keys = {
        "block_count": layers, "embedding_length": hidden, "feed_forward_length": ffn, "context_length": 4096,
        "attention.head_count": 32, "attention.head_count_kv": 32, "attention.key_length": 128,
        "attention.value_length": 128, "rope.freq_base": 1e4, "attention.layer_norm_rms_epsilon": 1e-5,
    }  # fmt: skip
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (vocab, hidden), "output_norm.weight": (hidden,), "output.weight": (vocab, hidden),
    }  # fmt: skip
    for i in range(layers):
        shapes |= {f"blk.{i}.{name}.weight": (hidden,) for name in ("attn_norm", "ffn_norm")}
        shapes |= {f"blk.{i}.attn_{name}.weight": (hidden, hidden) for name in ("q", "k", "v", "output")}
        shapes |= {f"blk.{i}.ffn_{name}.weight": (ffn, hidden) for name in ("gate", "up")}
        shapes[f"blk.{i}.ffn_down.weight"] = (hidden, ffn)
    program = describe({"general.architecture": "llama", **{f"llama.{k}": v for k, v in keys.items()}}, shapes)
    return Model(
        name="7b", origin="", family="llama", catalogue_family=None, program=program, shapes=shapes,
        counts=parameters(shapes), weights=by_class({name: 2 * prod(shape) for name, shape in shapes.items()}),
        stored="BF16", formats={name: "bf16" if len(shape) == 2 else "f32" for name, shape in shapes.items()},
    )  # fmt: skip


def test_as_many_layers_as_fit_stay_on_the_card(model: Model) -> None:
    layers = most_layers(model, CARD, HOST, WISH)
    assert layers is not None
    assert 8 <= layers <= 16
    on_card, on_host = budgets(model, layers, CARD, HOST, WISH)
    assert on_card.fits
    assert on_host.fits
    assert not budgets(model, layers + 1, CARD, HOST, WISH)[0].fits


def test_the_halves_hold_all_layers_and_their_part_of_the_kv_cache(model: Model) -> None:
    on_card, on_host = budgets(model, 12, CARD, HOST, WISH)
    whole = model.program.kv_bytes_per_token("f16") * 4096
    assert on_card.kv == whole * 12 // 32
    assert on_card.kv + on_host.kv == whole
    front, back = halves(model, 12, 128)
    both = [name for name in (*front.shapes, *back.shapes) if name != "activations"]
    assert sorted(both) == sorted(model.program.weight_names())
    assert on_card.weights == sum(prod(shape) * (2 if len(shape) == 2 else 4) for shape in front.shapes.values())


def test_a_cut_needs_room_on_both_sides(model: Model) -> None:
    assert most_layers(model, CARD, replace(HOST, available=2 * GB), WISH) is None
    assert most_layers(model, replace(CARD, available=GB), HOST, WISH) is None
    assert most_layers(replace(model, formats={}), CARD, HOST, WISH) is None
