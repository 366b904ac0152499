"""The native backend computes what the reference computes, for every family, weight type and way of cutting a step."""

import numpy as np
import pytest

from support.steps import Seq, logits_of, make_batch
from support.tiny import FAMILY_NAMES, tiny_model

TOKENS = [int(t) for t in np.random.default_rng(0).integers(0, 80, 100)]

VARIANTS = {
    "plain": {},
    "untied": {"tied": False},
    "one kv head": {"n_kv_heads": 1},
    "all heads": {"n_kv_heads": 4},
    "wide heads": {"head_dim": 96, "hidden": 128},
    "odd vocabulary": {"vocab": 83},
    "window": {"attention__sliding_window": 24},
}


def agree(native, reference, bound):
    spread = reference.std()
    assert np.abs(native - reference).max() <= bound * spread


@pytest.mark.parametrize("family", FAMILY_NAMES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_float_weights_agree_closely(load, family, variant):
    model = tiny_model(family, **VARIANTS[variant])
    agree(logits_of(load(model), TOKENS), logits_of(load(model, "reference"), TOKENS), 0.02)


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_every_instruction_set_agrees(isa, load, family):
    model = tiny_model(family, storage=lambda name: "q8_0" if "attn" in name else "f16")
    assert load(model).isa == isa
    agree(logits_of(load(model), TOKENS), logits_of(load(model, "reference"), TOKENS), 0.02)


@pytest.mark.parametrize("kind", ["q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q4_k", "q5_k", "q6_k", "f16", "bf16"])
def test_every_weight_type_agrees_within_the_error_of_its_activations(load, kind):
    model = tiny_model("llama", storage=kind, hidden=256, ffn=256, head_dim=64, tied=False)
    native = logits_of(load(model), TOKENS)
    agree(native, logits_of(load(model, "reference"), TOKENS), 0.02)


@pytest.mark.parametrize("family", FAMILY_NAMES)
@pytest.mark.parametrize("storage", ["f32", "q8_0"])
def test_chunks_and_decode_give_the_same_bits_as_one_prefill(load, family, storage):
    backend = load(tiny_model(family, storage=storage))
    whole = logits_of(backend, TOKENS)
    for chunks in ([40, 60], [1] * 100, [17, 1, 1, 30, 51], [99, 1]):
        assert np.array_equal(logits_of(backend, TOKENS, chunks=chunks), whole)


def test_company_in_the_batch_changes_no_bit(load):
    backend = load(tiny_model("llama", storage="q4_0"))
    alone = logits_of(backend, TOKENS[:50], pages=[9, 3, 20, 7])
    others = [Seq([10, 11, 12, 13]), Seq([14, 15]), Seq([16])]
    mine = Seq([9, 3, 20, 7])
    first = backend.logits(make_batch(16, [(others[0], TOKENS[:33]), (mine, TOKENS[:49]), (others[1], TOKENS[5:20])]))
    assert np.array_equal(first[33 : 33 + 49], alone[:49])
    work = [(others[1], [7]), (others[0], [8]), (mine, [TOKENS[49]]), (others[2], [9])]
    assert np.array_equal(backend.logits(make_batch(16, work))[2], alone[49])


@pytest.mark.parametrize("threads", [1, 2, 3, 5])
def test_the_number_of_threads_changes_no_bit(load, threads):
    model = tiny_model("qwen2", storage="q5_0")
    assert np.array_equal(logits_of(load(model, threads=threads), TOKENS), logits_of(load(model), TOKENS))


def test_a_poisoned_sequence_leaves_the_pages_it_frees_harmless(load):
    model = tiny_model("llama", storage="f32")
    model.tensors["token_embd.weight"].data[5] = np.nan  # one token whose embedding is not a number
    backend = load(model)
    clean = [t for t in TOKENS if t != 5][:20]
    before = logits_of(backend, clean, pages=[0, 1])
    poisoned = logits_of(backend, [5, 6, 7], pages=[1])
    assert np.isnan(poisoned[0]).all()
    assert np.isfinite(before[:, :5]).all()
    again = logits_of(backend, clean, pages=[0, 1])
    assert np.array_equal(again[:, :5], before[:, :5])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": np.array([99], np.int32)}, "token id 99 is outside the vocabulary"),
        ({"block_tables": np.array([[32]], np.int32)}, "page 32 of 32"),
        ({"positions": np.array([4], np.int32)}, "positions must end at context_len"),
        ({"context_len": np.array([40], np.int32)}, "context_len does not fit"),
        ({"rows": np.array([1], np.int32)}, "a row is outside the step"),
    ],
)
def test_a_wrong_batch_is_refused_and_the_next_one_runs(load, change, message):
    backend = load(tiny_model("llama"))
    wrong = make_batch(16, [(Seq([0]), [1])])
    for field, value in change.items():
        setattr(wrong, field, value)
    with pytest.raises(ValueError, match=message):
        backend.step(wrong)
    backend.step(make_batch(16, [(Seq([0]), [1])]))
