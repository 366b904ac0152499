"""`describe`: metadata and shapes in, a Program or a clear refusal out."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from befit.errors import UnsupportedModel
from befit.models import FAMILIES, describe
from befit.models.program import Attention, Embed, GatedAct, Linear, Logits, Norm
from befit.weights.gguf import GGUFFile
from support.tiny import FAMILY_NAMES, tiny_model

GATED_LAYER = "Norm Linear Linear Linear Attention Linear Add Norm Linear Linear GatedAct Linear Add"
LAYERS = {
    "llama": GATED_LAYER,
    "qwen2": GATED_LAYER,
    "qwen3": GATED_LAYER,
    "starcoder2": "Norm Linear Linear Linear Attention Linear Add Norm Linear Act Linear Add",
    "gemma3": "Norm Linear Linear Linear Attention Linear Norm Add Norm Linear Linear GatedAct Linear Norm Add",
}


def shapes_of(model):
    return {name: tensor.shape for name, tensor in model.tensors.items()}


def describe_changed(family="llama", *, metadata=None, shapes=None, without=(), **sizes):
    """Describe a tiny model after replacing metadata (by full key), replacing shapes, and dropping keys or tensors."""
    model = tiny_model(family, **sizes)
    meta = {k: v for k, v in (model.metadata | (metadata or {})).items() if k not in without}
    tensors = {k: v for k, v in (shapes_of(model) | (shapes or {})).items() if k not in without}
    return describe(meta, tensors)


def first_attention(program):
    return next(program.attentions())


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_a_program_is_embedding_layers_norm_and_logits(family):
    program = tiny_model(family, n_layers=3).program
    kinds = [type(op).__name__ for op in program.ops]
    assert " ".join(kinds) == f"Embed {LAYERS[family]} {LAYERS[family]} {LAYERS[family]} Norm Logits"
    assert [op.layer for op in program.attentions()] == [0, 1, 2]
    assert (program.family, program.n_layers, program.hidden_size) == (family, 3, 64)
    assert (program.vocab_size, program.max_context) == (80, 256)


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_a_program_reads_only_values_that_were_written_and_uses_every_tensor(family):
    model = tiny_model(family, tied=False)
    written = set()
    for op in model.program.ops:
        reads = {getattr(op, f) for f in ("x", "a", "b", "q", "k", "v", "gate", "up") if hasattr(op, f)}
        assert reads <= written
        written.add(getattr(op, "out", None))
    assert set(model.program.weight_names()) == set(model.tensors)


def test_the_head_is_the_embedding_when_the_file_has_no_other():
    assert tiny_model("llama", tied=True).program.ops[-1] == Logits("n", "token_embd.weight")
    assert tiny_model("llama", tied=False).program.ops[-1] == Logits("n", "output.weight")


def test_what_sets_the_families_apart():
    programs = {family: tiny_model(family).program for family in FAMILY_NAMES}
    attention = {family: first_attention(p) for family, p in programs.items()}
    assert [f for f, a in attention.items() if a.rope.interleaved] == ["llama"]
    assert [f for f, a in attention.items() if a.q_norm and a.k_norm] == ["qwen3", "gemma3"]

    def linears(family):
        return [op for op in programs[family].ops if isinstance(op, Linear)]

    assert [bool(op.bias) for op in linears("qwen2")[:4]] == [True, True, True, False]
    assert all(op.bias for op in linears("starcoder2"))
    assert {op.kind for op in programs["starcoder2"].ops if isinstance(op, Norm)} == {"layer"}
    assert {op.fn for op in programs["gemma3"].ops if isinstance(op, GatedAct)} == {"gelu_tanh"}
    assert programs["gemma3"].ops[0] == Embed("h", "token_embd.weight", scale=8.0)


def test_gemma3_has_five_windowed_layers_to_one_that_sees_everything():
    program = tiny_model("gemma3", n_layers=8, attention__sliding_window=16, rope__freq_base=1e6).program
    attentions = list(program.attentions())
    assert [a.window for a in attentions] == [16] * 5 + [None] + [16] * 2
    assert attentions[0].rope.inv_freq[1] == pytest.approx(1e4 ** (-1 / 16))
    assert attentions[5].rope.inv_freq[1] == pytest.approx(1e6 ** (-1 / 16))


def test_gemma3_scales_queries_by_the_head_size_and_in_the_27b_by_hidden_over_heads():
    assert first_attention(tiny_model("gemma3", n_layers=2).program).scale == pytest.approx(32**-0.5)
    assert first_attention(tiny_model("gemma3", n_layers=62, ffn=32).program).scale == pytest.approx(16**-0.5)


def test_starcoder2_was_trained_with_a_window_that_its_files_leave_out():
    assert first_attention(tiny_model("starcoder2").program).window == 4096
    assert first_attention(tiny_model("starcoder2", attention__sliding_window=0).program).window is None


@pytest.mark.parametrize(
    ("pattern", "windows"),
    [(2, [8, None, 8]), (1, [None] * 3), (0, [8] * 3), (np.array([False, True, True]), [None, 8, 8])],
)
def test_a_window_pattern_is_a_period_or_a_flag_a_layer(pattern, windows):
    keys = {"attention__sliding_window": 8, "attention__sliding_window_pattern": pattern}
    assert [a.window for a in tiny_model("llama", n_layers=3, **keys).program.attentions()] == windows


def test_head_counts_may_differ_by_layer():
    shapes = {"blk.1.attn_k.weight": (128, 64), "blk.1.attn_v.weight": (128, 64)}
    program = describe_changed(metadata={"llama.attention.head_count_kv": np.array([2, 4])}, shapes=shapes)
    assert [a.n_kv_heads for a in program.attentions()] == [2, 4]
    assert program.kv_bytes_per_token() == 2 * 2 * (2 + 4) * 32
    assert program.kv_bytes_per_token("int8") == 2 * (2 + 4) * (32 + 4)  # a scale beside each key and value


def test_defaults_of_the_gguf_specification():
    program = describe_changed(
        hidden=128,
        n_kv_heads=4,
        without=(
            "llama.attention.key_length",
            "llama.attention.value_length",
            "llama.attention.head_count_kv",
            "llama.rope.freq_base",
        ),
    )
    attention = first_attention(program)
    assert (attention.head_dim, attention.n_kv_heads, attention.window) == (32, 4, None)
    assert attention.rope.inv_freq[1] == pytest.approx(10000 ** (-1 / 16))


def test_only_part_of_a_head_may_turn():
    rope = first_attention(tiny_model("llama", rope__dimension_count=16).program).rope
    assert (rope.dim, len(rope.inv_freq)) == (16, 8)


def test_llama3_factors_divide_the_frequencies():
    factors = np.linspace(1, 8, 16, dtype=np.float32)
    plain = first_attention(tiny_model("llama").program).rope
    stretched = first_attention(tiny_model("llama", llama3_factors=factors).program).rope
    np.testing.assert_allclose(stretched.inv_freq, np.array(plain.inv_freq) / factors)


def test_llama3_factors_need_a_reader_and_sane_values():
    model = tiny_model("llama", llama3_factors=np.ones(16, np.float32))
    with pytest.raises(ValueError, match=r"rope_freqs.weight; pass read_vector"):
        describe(model.metadata, shapes_of(model))
    for bad in (0.0, np.nan, -1.0):
        with pytest.raises(UnsupportedModel, match=r"rope_freqs\.weight must hold 16 finite numbers above 0"):
            describe(model.metadata, shapes_of(model), lambda _, bad=bad: np.full(16, bad))


def test_an_unknown_architecture_lists_what_runs():
    with pytest.raises(UnsupportedModel, match=r"architecture is 'mamba'; befit runs llama \(Llama 1-3.*gemma3"):
        describe({"general.architecture": "mamba"}, {})
    with pytest.raises(UnsupportedModel, match="architecture is None"):
        describe({}, {})
    assert tuple(FAMILIES) == FAMILY_NAMES


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"without": ("llama.block_count",)}, "no llama.block_count"),
        ({"without": ("llama.context_length",)}, "no llama.context_length"),
        ({"without": ("llama.feed_forward_length",)}, "no llama.feed_forward_length"),
        ({"without": ("llama.attention.layer_norm_rms_epsilon",)}, r"none of llama\.attention\.layer_norm_rms_epsilon"),
        ({"metadata": {"llama.block_count": 2**31}}, r"block_count is 2.*; it must be an integer from 1 to"),
        ({"metadata": {"llama.block_count": "2"}}, "block_count is '2'; it must be one finite number"),
        ({"metadata": {"llama.attention.head_count": np.array([4])}}, "has 1 entries for 2 layers"),
        ({"metadata": {"llama.attention.head_count_kv": 3}}, "4 query heads, not a multiple of its 3"),
        ({"metadata": {"llama.attention.key_length": 40}}, "40 components; befit runs multiples of 32"),
        ({"metadata": {"llama.attention.value_length": 64}}, "value_length is 64 and keys have 32"),
        ({"metadata": {"llama.rope.dimension_count": 7}}, "dimension_count must be even"),
        ({"metadata": {"llama.rope.freq_base": 0.5}}, "freq_base is 0.5; it must be above 1"),
        (
            {"metadata": {"llama.rope.scaling.type": "longrope"}},
            "'longrope'; befit knows none, linear, llama3, yarn",
        ),
        ({"metadata": {"llama.rope.scaling.factor": float("inf")}}, "factor is inf"),
        ({"metadata": {"llama.expert_count": 8}}, r"mixture of experts \(llama.expert_count is 8\); befit runs dense"),
        ({"metadata": {"llama.final_logit_softcapping": 30.0}}, "softcapping is 30; befit cannot compute that"),
        ({"metadata": {"llama.attention.causal": False}}, "causal is 0; befit cannot compute that"),
        ({"without": ("blk.1.ffn_up.weight",)}, r"no tensor blk\.1\.ffn_up\.weight, expected \[96, 64\]"),
        ({"shapes": {"blk.0.attn_q.weight": (64, 64)}}, r"blk\.0\.attn_q\.weight is \[64, 64\], expected \[128, 64\]"),
        ({"shapes": {"output.weight": (79, 64)}}, r"output\.weight is \[79, 64\], expected \[80, 64\]"),
        ({"shapes": {"token_embd.weight": (80,)}}, r"token_embd\.weight is \[80\], expected \[vocabulary, 64\]"),
        ({"shapes": {"blk.0.attn_q_norm.weight": (32,)}}, r"does not use: blk\.0\.attn_q_norm\.weight"),
        ({"family": "qwen2", "without": ("blk.0.attn_k.bias",)}, r"no tensor blk\.0\.attn_k\.bias, expected \[64\]"),
        ({"family": "starcoder2", "without": ("blk.0.ffn_up.bias",)}, r"no tensor blk\.0\.ffn_up\.bias"),
        ({"family": "gemma3", "without": ("blk.1.post_ffw_norm.weight",)}, r"no tensor blk\.1\.post_ffw_norm"),
    ],
)
def test_what_is_missing_wrong_or_unknown_is_refused_by_name(change, message):
    with pytest.raises(UnsupportedModel, match=message):
        describe_changed(**change)


def test_biases_of_a_llama_are_used_when_the_file_has_them():
    program = describe_changed(shapes={"blk.0.attn_q.bias": (128,), "blk.1.ffn_down.bias": (64,)})
    assert [op.bias for op in program.ops if isinstance(op, Linear) and op.bias] == [
        "blk.0.attn_q.bias",
        "blk.1.ffn_down.bias",
    ]


LLAMA = tiny_model("llama")
ANY_VALUE = st.one_of(
    st.integers(-(2**63), 2**64),
    st.floats(),
    st.booleans(),
    st.text(max_size=5),
    st.sampled_from(["none", "linear", "llama3", "yarn"]),
    st.lists(st.one_of(st.integers(-5, 2**40), st.floats()), max_size=3).map(np.array),
    st.lists(st.one_of(st.integers(-5, 2**64), st.floats(), st.text(max_size=5)), max_size=3),
    st.none(),
)
KEYS = [
    *(key for key in LLAMA.metadata if key.startswith("llama.")),
    "llama.attention.sliding_window",
    "llama.attention.sliding_window_pattern",
    "llama.rope.scaling.type",
    "llama.rope.scaling.factor",
    "llama.rope.scaling.original_context_length",
    "llama.expert_count",
]


@settings(max_examples=150)
@given(changes=st.dictionaries(st.sampled_from(KEYS), ANY_VALUE, min_size=1, max_size=3))
def test_any_metadata_gives_a_program_or_a_refusal(changes):
    try:
        program = describe(LLAMA.metadata | changes, shapes_of(LLAMA))
    except UnsupportedModel:
        return
    assert all(np.isfinite(a.rope.inv_freq).all() for a in program.attentions())


def test_programs_are_values():
    assert tiny_model("qwen3").program == tiny_model("qwen3", seed=1).program
    with pytest.raises(dataclasses.FrozenInstanceError):
        tiny_model("qwen3").program.n_layers = 1


def describe_file(path):
    with GGUFFile.open(path) as file:
        return describe(file.metadata, {name: tensor.shape for name, tensor in file.tensors.items()})


@pytest.mark.model
def test_smollm2_is_a_llama(smollm2_path):
    program = describe_file(smollm2_path)
    attention = first_attention(program)
    assert (program.family, program.n_layers, program.vocab_size, program.max_context) == ("llama", 30, 49152, 8192)
    assert (attention.n_heads, attention.n_kv_heads, attention.head_dim) == (9, 3, 64)
    assert program.ops[-1] == Logits("n", "token_embd.weight")


@pytest.mark.qwen
def test_qwen_coder_is_a_qwen2(qwen_path):
    program = describe_file(qwen_path)
    assert (program.family, program.n_layers, program.vocab_size) == ("qwen2", 24, 151936)
    assert isinstance(program.ops[5], Attention)
    assert program.ops[2].bias == "blk.0.attn_q.bias"
