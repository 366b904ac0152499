"""Parameters, KV bytes and activations: against published numbers, the families that befit runs, and by hand."""

from __future__ import annotations

from math import prod
from typing import Any

import pytest

from befit.errors import UnsupportedModel
from befit.plan import source
from befit.plan.config_json import from_config, from_gguf
from befit.plan.memory import (
    CLASSES,
    Model,
    by_class,
    classify,
    in_memory,
    kv_bytes_per_token,
    parameters,
    plain_activation_bytes,
)
from befit.store import catalogue
from support.tiny import FAMILY_NAMES, tiny_model

PUBLISHED = {
    "smollm2:135m": 134_515_008,
    "smollm2:360m": 361_821_120,
    "smollm2:1.7b": 1_711_376_384,
    "qwen2.5-coder:0.5b": 494_032_768,
    "qwen2.5-coder:1.5b": 1_543_714_304,
    "qwen2.5-coder:3b": 3_085_938_688,
    "qwen2.5-coder:7b": 7_615_616_512,
    "qwen2.5-coder:14b": 14_770_033_664,
    "qwen2.5-coder:32b": 32_763_876_352,
    "qwen3-coder:30b-a3b": 30_532_122_624,
    "deepseek-coder:1.3b": 1_346_471_936,
    "deepseek-coder:6.7b": 6_740_512_768,
    "deepseek-coder:33b": 33_342_991_360,
    "deepseek-coder-v2:lite": 15_706_484_224,
    "codellama:7b": 6_738_546_688,
    "codellama:13b": 13_016_028_160,
    "codellama:34b": 33_743_970_304,
    "starcoder2:3b": 3_030_371_328,
    "starcoder2:7b": 7_173_923_840,
    "starcoder2:15b": 15_957_889_024,
    "codestral:22b": 22_247_282_688,
    "codegemma:2b": 2_506_172_416,
    "codegemma:7b": 8_537_680_896,
    "granite-code:3b": 3_482_503_680,
    "granite-code:8b": 8_054_910_976,
}


def planned(name: str) -> Model:
    return source.from_known(name)


def test_every_known_model_has_a_published_size() -> None:
    assert set(PUBLISHED) == set(catalogue.models())


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_those_that_publishers_state(name: str) -> None:
    assert planned(name).parameters == PUBLISHED[name]


@pytest.mark.parametrize(
    ("name", "kv"),
    [
        ("codellama:7b", 524_288),  # 32 layers, K and V, 32 heads of 128, 2 bytes
        ("qwen2.5-coder:7b", 57_344),
        ("starcoder2:3b", 30_720),
        ("deepseek-coder-v2:lite", 27 * (512 + 64) * 2),  # one compressed vector and one rotary key a layer
        ("codegemma:7b", 28 * 2 * 16 * 256 * 2),
    ],
)
def test_kv_bytes_of_a_token(name: str, kv: int) -> None:
    assert kv_bytes_per_token(planned(name).program) == kv


def test_int8_keys_and_values_have_a_scale_each() -> None:
    assert kv_bytes_per_token(planned("codellama:7b").program, "int8") == 32 * 2 * 32 * (128 + 4)


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_made_up_programs_agree_with_those_that_run(family: str) -> None:
    tiny = tiny_model(family)
    shapes = {name: tensor.shape for name, tensor in tiny.tensors.items()}
    architecture = from_gguf(tiny.metadata, shapes)
    program, _ = architecture.describe()
    assert kv_bytes_per_token(program) == tiny.program.kv_bytes_per_token()
    assert len(list(program.attentions())) == program.n_layers == tiny.program.n_layers
    assert (program.hidden_size, program.vocab_size) == (tiny.program.hidden_size, tiny.program.vocab_size)
    if family != "gemma3":  # which has norms of its own kind
        assert {name for name in program.weight_names() if name.endswith("proj.weight")} <= set(shapes)


def test_activations_have_a_buffer_a_value() -> None:
    tiny = tiny_model("llama", hidden=64, n_heads=4, n_kv_heads=2, head_dim=32, ffn=96, vocab=80)
    shapes = {name: tensor.shape for name, tensor in tiny.tensors.items()}
    subject = Model(
        name="tiny",
        origin="",
        family="llama",
        catalogue_family=None,
        program=tiny.program,
        shapes=shapes,
        counts=parameters(shapes),
        weights=by_class({name: 2 * prod(shape) for name, shape in shapes.items()}),
        stored="F16",
    )
    values = {"h": 64, "n": 64, "q": 128, "k": 64, "v": 64, "a": 128, "o": 64, "g": 96, "u": 96}
    assert plain_activation_bytes(subject, tokens=10, rows=3) == 4 * (10 * sum(values.values()) + 3 * 80)


def test_a_tied_embedding_is_in_memory_twice() -> None:
    tiny = tiny_model("llama")
    shapes = {name: tensor.shape for name, tensor in tiny.tensors.items()}
    stored = by_class({name: 2 * prod(shape) for name, shape in shapes.items()})
    kept = in_memory(tiny.program, shapes, dict.fromkeys(shapes, "f16"), stored)
    assert kept["embedding"] == kept["head"] == stored["embedding"]
    assert kept["attention"] == stored["attention"]
    unknown = in_memory(tiny.program, shapes, dict.fromkeys(shapes, "iq4_nl"), stored)
    assert unknown == {**stored, "head": stored["embedding"]}


def test_every_tensor_has_its_class() -> None:
    assert [classify(name) for name in ("token_embd.weight", "blk.0.attn_q.weight", "blk.0.attn_q.bias")] == [
        "embedding",
        "attention",
        "norms, biases",
    ]
    assert (
        classify("blk.3.ffn_gate_exps.weight") == classify("model.layers.3.mlp.experts.7.up_proj.weight") == "experts"
    )
    assert classify("model.layers.3.mlp.up_proj.qweight") == "mlp"
    assert classify("lm_head.weight") == classify("output.weight") == "head"
    assert classify("model.layers.0.input_layernorm.weight") == "norms, biases"
    assert classify("something.else") == "other"
    assert set(by_class({"output.weight": 1})) <= set(CLASSES)


# -- config.json ------------------------------------------------------------------------------------------------------


def test_a_missing_size_is_named(config: dict[str, Any]) -> None:
    del config["num_hidden_layers"]
    with pytest.raises(UnsupportedModel, match="num_hidden_layers"):
        from_config(config)


@pytest.mark.parametrize("value", [-1, "many", 2**40, [], True])
def test_a_wrong_size_is_refused(config: dict[str, Any], value: object) -> None:
    with pytest.raises(UnsupportedModel, match="hidden_size"):
        from_config({**config, "hidden_size": value})


def test_names_of_older_families() -> None:
    gpt = from_config({"model_type": "gpt_bigcode", "n_embd": 2048, "n_layer": 24, "n_head": 16, "n_positions": 8192,
                       "n_inner": 8192, "vocab_size": 49152, "multi_query": True})  # fmt: skip
    assert (gpt.n_kv_heads, gpt.gated, gpt.tied, gpt.positions) == (1, False, True, 8192)
    _, shapes = gpt.describe()
    assert sum(map(prod, shapes.values())) == 1_137_207_296  # StarCoderBase-1B


def test_windows_by_kind_of_layer_by_period_and_switched_off(config: dict[str, Any]) -> None:
    kinds = ["sliding_attention", "full_attention"]
    assert from_config({**config, "sliding_window": 64, "layer_types": kinds}).windows == (64, None)
    assert from_config({**config, "sliding_window": 64, "sliding_window_pattern": 2}).windows == (64, None)
    assert from_config({**config, "sliding_window": 64}).windows == (64, 64)
    assert from_config({**config, "sliding_window": 64, "use_sliding_window": False}).windows == (None, None)


def test_the_text_part_of_a_model_that_also_sees(config: dict[str, Any]) -> None:
    assert from_config({"model_type": "gemma3", "text_config": config}).hidden == 64
