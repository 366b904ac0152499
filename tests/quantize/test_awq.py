"""Scaling channels: where it can be folded, that it changes nothing, and that it pays where channels differ."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from befit import backends
from befit.models.program import Act, Linear, Logits
from befit.quantize import activations, awq
from befit.quantize.awq import Scales, calibrate, unshared
from befit.quantize.folding import Input, inputs
from befit.quantize.recipe import Quantised, formats
from befit.weights.tensor import DenseTensor, Tensor
from support.steps import logits_of
from support.tiny import FAMILY_NAMES, TinyModel, tiny_model

families = pytest.mark.parametrize("family", FAMILY_NAMES)
TOKENS = list(np.random.default_rng(5).integers(0, 80, 48))


def reference(model: TinyModel, tensors: Mapping[str, Tensor]) -> np.ndarray:
    named = {name: tensors[name] for name in model.program.weight_names()}
    backend = backends.create("reference", model.program, named, n_blocks=8, max_tokens=64, max_rows=64)
    return logits_of(backend, TOKENS)


def random_scales(model: TinyModel, spread: float = 2.0) -> Scales:
    rng = np.random.default_rng(3)
    scales = Scales()
    for each in inputs(model.program, model.tensors):
        if not each.foldable:
            continue
        loudness = np.exp2(rng.uniform(-spread, spread, model.tensors[each.weights[0]].shape[1])).astype(np.float32)
        s = awq.shared(loudness, each)
        scales.columns |= dict.fromkeys(each.weights, s)
        scales.rows |= dict.fromkeys((*each.vectors, *each.matrices), unshared(s, each))
    return scales


@families
def test_folded_scales_leave_the_function_as_it_is(family: str) -> None:
    model = tiny_model(family)
    scales = random_scales(model)
    assert scales.columns
    before = reference(model, model.tensors)
    # Without formats nothing is rounded but to halves, so the scaled tensors are made here in float32.
    exact = {
        name: type(tensor)(name, tensor.shape, "f32", scales.apply(name, tensor.dequantize()))
        for name, tensor in model.tensors.items()
    }
    changed = [name for name, tensor in exact.items() if not np.allclose(tensor.data, model.weight(name))]
    assert len(changed) >= 2 * model.program.n_layers
    assert np.abs(reference(model, exact) - before).max() < 1e-4 * np.abs(before).max()


@families
def test_what_is_scaled_where(family: str) -> None:
    model = tiny_model(family, n_layers=1, tied=family != "qwen3")
    found = {each.weights: each for each in inputs(model.program, model.tensors)}
    qkv = found[tuple(f"blk.0.attn_{part}.weight" for part in "qkv")]
    norm = ("blk.0.attn_norm.weight", "blk.0.attn_norm.bias")[: 2 if family == "starcoder2" else 1]
    assert (qkv.vectors, qkv.matrices) == (norm, ())
    out = found["blk.0.attn_output.weight",]
    biased = family in ("qwen2", "starcoder2")
    assert out.matrices == ("blk.0.attn_v.weight",)
    assert out.vectors == (("blk.0.attn_v.bias",) if biased else ())
    assert (out.heads, out.kv_heads, out.head_dim) == (4, 2, 32)
    down = found["blk.0.ffn_down.weight",]
    if any(isinstance(op, Act) for op in model.program.ops):
        assert not down.foldable  # gelu(x / s) is not gelu(x) / s
    else:
        assert down.matrices == ("blk.0.ffn_up.weight",)
    [head] = [op.weight for op in model.program.ops if isinstance(op, Logits)]
    assert not found[(head,)].foldable
    matrices = [op.weight for op in model.program.ops if isinstance(op, Linear)]
    assert sorted(name for each in found.values() for name in each.weights) == sorted([*matrices, head])


def test_a_weight_that_is_used_twice_is_not_scaled() -> None:
    model = tiny_model("llama", n_layers=1)
    shared = next(op for op in model.program.ops if isinstance(op, Linear))
    ops = tuple(
        Linear(op.out, op.x, shared.weight) if isinstance(op, Linear) and op.weight == "blk.0.ffn_gate.weight" else op
        for op in model.program.ops
    )
    program = type(model.program)("llama", 80, 64, 1, 256, ops)
    for each in inputs(program, model.tensors):
        assert not (each.foldable and shared.weight in (*each.weights, *each.matrices))


def test_query_heads_of_one_kv_head_share_their_factors() -> None:
    each = Input(0, ("o",), (), ("v",), heads=4, kv_heads=2, head_dim=3)
    loudness = np.arange(12, dtype=np.float32)
    s = awq.shared(loudness, each)
    assert s.tolist() == [1.5, 2.5, 3.5, 1.5, 2.5, 3.5, 7.5, 8.5, 9.5, 7.5, 8.5, 9.5]
    assert unshared(s, each).tolist() == [1.5, 2.5, 3.5, 7.5, 8.5, 9.5]


@families
def test_the_walk_computes_what_the_reference_computes(family: str) -> None:
    model = tiny_model(family, sliding_window=16) if family != "gemma3" else tiny_model(family)
    seen: dict[int, tuple[int, ...]] = {}
    read = activations.run(model.program, model.tensors, [TOKENS, TOKENS[:7]], lambda i, x: seen.update({i: x.shape}))
    [head] = [op for op in model.program.ops if isinstance(op, Logits)]
    logits = activations.product(read, model.tensors[head.weight])
    expected = reference(model, model.tensors)
    assert np.allclose(logits[: len(TOKENS)], expected, rtol=1e-4, atol=1e-4)
    assert np.allclose(logits[len(TOKENS) :], expected[:7], rtol=1e-4, atol=1e-4)
    assert sorted(seen) == list(range(len(model.program.ops) - 1))


def test_calibration_pays_where_channels_differ_in_loudness() -> None:
    """Channels of a norm that are a hundred times louder than others make plain rounding costly."""
    model = tiny_model("llama", hidden=128, ffn=256)
    loud = np.exp2(np.random.default_rng(0).normal(0, 2.5, 128)).astype(np.float32)
    for layer in range(2):
        for name in ("attn_norm", "ffn_norm"):
            tensor = model.tensors[f"blk.{layer}.{name}.weight"]
            assert isinstance(tensor, DenseTensor)
            tensor.data[:] *= loud
    chosen = {
        name: fmt for name, fmt in formats(model.program, shapes(model), "w4").items() if name != "token_embd.weight"
    }
    scales = calibrate(model.program, model.tensors, chosen, [TOKENS])
    before = reference(model, model.tensors)
    plain, aware = (
        np.square(reference(model, Quantised(model.tensors, chosen, s)) - before).mean() for s in (None, scales)
    )
    assert aware < 0.7 * plain
    assert any(alpha > 0 for alpha in scales.alphas.values())


def test_the_scale_that_is_chosen_is_not_worse_than_none() -> None:
    model = tiny_model("qwen2", hidden=128)
    chosen = formats(model.program, shapes(model), "w4")
    x = np.random.default_rng(1).standard_normal((128, 64)).astype(np.float32)
    square = np.square(x).mean(axis=1)
    matrix = [(chosen["blk.0.attn_q.weight"], model.weight("blk.0.attn_q.weight"))]
    losses = [awq.loss(awq.powers(np.abs(x).mean(axis=1), alpha), matrix, x, square) for alpha in awq.ALPHAS]
    assert min(losses) <= losses[0]
    assert awq.ALPHAS[0] == 0


def shapes(model: TinyModel) -> dict[str, tuple[int, ...]]:
    return {name: tensor.shape for name, tensor in model.tensors.items()}
