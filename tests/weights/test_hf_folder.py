"""Hugging Face folders: the same model as the same weights in a GGUF file, whatever the family, types and parts."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from befit import tokenizer
from befit.backends.reference import ReferenceBackend
from befit.errors import BefitError, CorruptFile, ModelError, ModelNotFound, UnsupportedModel
from befit.models import describe
from befit.weights.checkpoint import open_checkpoint
from befit.weights.hf_files import weight_files
from befit.weights.hf_folder import HFFolder
from support.files import VOCAB, vocabulary
from support.hf import hf_arrays, hf_config, stored, write_folder, write_safetensors
from support.steps import logits_of
from support.tiny import FAMILY_NAMES, TinyModel, tiny_model

TOKENS = [5, 17, 3, 3, 42, 60, 9, 11, 2, 71, 33, 8, 25, 50, 1, 19, 66, 4, 30, 12]


def tiny(family: str, **options: Any) -> TinyModel:
    windows = {"gemma3": 16, "starcoder2": 8}
    if family in windows:
        options["attention__sliding_window"] = windows[family]
    return tiny_model(family, vocab=VOCAB, **options)


def logits(program: Any, tensors: Any) -> np.ndarray:
    backend = ReferenceBackend(program, tensors, block_size=16, n_blocks=4, max_tokens=64, max_rows=64)
    return logits_of(backend, TOKENS)


def folder_logits(folder: Path) -> np.ndarray:
    with open_checkpoint(folder) as file:
        program = describe(file.metadata, file.shapes)
        return logits(program, {name: file.tensors[name] for name in program.weight_names()})


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    model = tiny("llama")
    return write_folder(tmp_path / "tiny", hf_config(model), hf_arrays(model))


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "own head"])
@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_the_same_model_as_from_gguf(tmp_path: Path, family: str, tied: bool) -> None:
    model = tiny(family, tied=tied)
    folder = write_folder(tmp_path / "m", hf_config(model), hf_arrays(model, "F32"), parts=1 if tied else 3)
    np.testing.assert_allclose(folder_logits(folder), logits(model.program, model.tensors), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_floats_are_mapped_and_not_copied(tmp_path: Path, dtype: str) -> None:
    model = tiny("qwen2")
    folder = write_folder(tmp_path / "m", hf_config(model), hf_arrays(model, dtype))
    with HFFolder.open(folder) as file:
        tensor = file.tensors["blk.1.ffn_down.weight"]
        assert np.shares_memory(tensor.data, file.files[0].bytes)
        assert tensor.dtype == dtype.lower()
        expected = stored(model.weight("blk.1.ffn_down.weight"), dtype)
        np.testing.assert_array_equal(tensor.data, expected)
        file.release(tensor)
        np.testing.assert_array_equal(tensor.data, expected)


def test_a_second_copy_of_a_tied_head_is_not_used(tmp_path: Path) -> None:
    model = tiny("llama")
    arrays = hf_arrays(model) | {"lm_head.weight": ("BF16", np.zeros((VOCAB, 64), np.uint16))}
    with HFFolder.open(write_folder(tmp_path / "m", hf_config(model), arrays)) as file:
        assert "output.weight" not in file.tensors
    with pytest.raises(CorruptFile, match=r"lm_head\.weight, is missing"):
        HFFolder.open(write_folder(tmp_path / "n", hf_config(model, tie_word_embeddings=False), hf_arrays(model)))


def test_the_text_part_of_a_model_that_also_sees(tmp_path: Path) -> None:
    model = tiny("gemma3")
    inner = hf_config(model)
    arrays = {f"language_model.{name}": value for name, value in hf_arrays(model, "F32").items()}
    arrays["vision_tower.embeddings.weight"] = ("F32", np.zeros((2, 2), np.float32))
    folder = write_folder(tmp_path / "m", {"model_type": "gemma3", "text_config": inner}, arrays)
    np.testing.assert_allclose(folder_logits(folder), logits(model.program, model.tensors), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"model_type": "gpt_oss"}, "model_type is 'gpt_oss'"),
        ({"model_type": None}, "model_type is None"),
        ({"auto_map": {"AutoModelForCausalLM": "modeling_x.X"}}, r"auto_map: AutoModelForCausalLM modeling_x\.X"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu'"),
        ({"hidden_size": None}, "no hidden_size"),
        ({"hidden_size": 64.5}, "hidden_size is 64.5"),
        ({"hidden_size": "64"}, "hidden_size is '64'"),
        ({"rope_scaling": {"rope_type": "longrope", "factor": 2}}, "rope_type is 'longrope'"),
        ({"rope_scaling": {"rope_type": "linear"}}, "no factor"),
        ({"rope_scaling": [1]}, "not an object"),
    ],
)
def test_what_is_refused_by_name(tmp_path: Path, changes: dict[str, Any], text: str) -> None:
    model = tiny("llama")
    with pytest.raises(UnsupportedModel, match=text):
        HFFolder.open(write_folder(tmp_path / "m", hf_config(model, **changes), hf_arrays(model)))


def test_a_tensor_that_no_family_has_is_named(tmp_path: Path) -> None:
    model = tiny("llama")
    arrays = hf_arrays(model) | {"model.layers.0.mlp.router.weight": ("F32", np.zeros((2, 2), np.float32))}
    with pytest.raises(UnsupportedModel, match=r"model\.layers\.0\.mlp\.router\.weight"):
        folder_logits(write_folder(tmp_path / "m", hf_config(model), arrays))


@pytest.mark.parametrize(
    ("scaling", "expected"),
    [
        ({"rope_type": "linear", "factor": 4.0}, {"rope__scaling__type": "linear", "rope__scaling__factor": 4.0}),
        (
            {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 128,
            },
            {
                "rope__scaling__type": "llama3",
                "rope__scaling__factor": 8.0,
                "rope__scaling__original_context_length": 128,
            },
        ),
        (
            {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
            {
                "rope__scaling__type": "yarn",
                "rope__scaling__factor": 4.0,
                "rope__scaling__original_context_length": 64,
            },
        ),
    ],
    ids=["linear", "llama3", "yarn"],
)
def test_stretched_contexts(tmp_path: Path, scaling: dict[str, Any], expected: dict[str, Any]) -> None:
    model = tiny("qwen2", **expected)
    folder = write_folder(tmp_path / "m", hf_config(model, rope_scaling=scaling), hf_arrays(model, "F32"))
    with HFFolder.open(folder) as file:
        found = next(describe(file.metadata, file.shapes).attentions()).rope
    assert found == next(model.program.attentions()).rope


def test_the_new_spelling_of_rope_parameters(tmp_path: Path) -> None:
    model = tiny("gemma3", rope__freq_base=5e5, rope__freq_base_swa=2e4)
    both = {
        "full_attention": {"rope_type": "default", "rope_theta": 5e5},
        "sliding_attention": {"rope_type": "default", "rope_theta": 2e4},
    }
    config = hf_config(model, rope_theta=None, rope_parameters=both)
    with HFFolder.open(write_folder(tmp_path / "m", config, hf_arrays(model))) as file:
        found = [op.rope for op in describe(file.metadata, file.shapes).attentions()]
    assert found == [op.rope for op in model.program.attentions()]


# -- texts ------------------------------------------------------------------------------------------------------------


def test_texts_are_read_as_from_gguf(llama: Path) -> None:
    with open_checkpoint(llama / "config.json") as file:
        made, same = tokenizer.load(file.metadata), tokenizer.load(vocabulary())
        assert file.metadata["tokenizer.chat_template"].startswith("{% for m in messages %}")
    for text in ("hello hello 12", "<|im_start|>user\nhello<|im_end|>", "née 🙂\n\n  x"):
        for parse in (True, False):
            assert made.encode(text, parse_special=parse) == same.encode(text, parse_special=parse)
    assert made.control_tokens == same.control_tokens
    assert made.decode(made.encode("née 🙂")) == "née 🙂"
    assert (made.bos_id, made.adds_bos) == (made.token_id("<|im_start|>"), False)


def test_every_id_that_ends_a_generation(tmp_path: Path) -> None:
    model = tiny("llama")
    generation = {"eos_token_id": [4, 7], "temperature": 0.7, "top_k": 20, "repetition_penalty": 1.05}
    folder = write_folder(tmp_path / "m", hf_config(model), hf_arrays(model), generation=generation)
    with open_checkpoint(folder) as file:
        assert {4, 7} <= tokenizer.load(file.metadata).eos_ids
        assert file.metadata["general.sampling.temp"] == 0.7
        assert file.metadata["general.sampling.top_k"] == 20
        assert file.metadata["general.sampling.penalty_repeat"] == 1.05


@pytest.mark.parametrize("ends", ["4", [4, None], True, {"id": 4}])
def test_ids_that_are_none(tmp_path: Path, ends: Any) -> None:
    model = tiny("llama")
    folder = write_folder(tmp_path / "m", hf_config(model), hf_arrays(model), generation={"eos_token_id": ends})
    with pytest.raises(CorruptFile, match="eos_token_id"):
        HFFolder.open(folder)


def test_a_text_that_begins_with_bos(tmp_path: Path) -> None:
    def with_bos(found: dict[str, Any]) -> None:
        bos = {"SpecialToken": {"id": "<|im_start|>", "type_id": 0}}
        found["post_processor"] = {
            "type": "TemplateProcessing",
            "single": [bos, {"Sequence": {"id": "A", "type_id": 0}}],
            "special_tokens": {"<|im_start|>": {"id": "<|im_start|>", "ids": [261], "tokens": ["<|im_start|>"]}},
        }

    model = tiny("llama")
    folder = write_folder(tmp_path / "m", hf_config(model), hf_arrays(model), change=with_bos)
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<|im_start|>"}))
    with open_checkpoint(folder) as file:
        made = tokenizer.load(file.metadata)
    assert made.encode("hello") == [261, *made.encode("hello", add_special=False)]


@pytest.mark.parametrize("kind", ["Unigram", "WordPiece"])
def test_a_tokeniser_that_is_no_bpe(tmp_path: Path, kind: str) -> None:
    model = tiny("llama")
    change = {"type": kind}
    folder = write_folder(
        tmp_path / "m", hf_config(model), hf_arrays(model), change=lambda found: found["model"].update(change)
    )
    with pytest.raises(UnsupportedModel, match=kind):
        HFFolder.open(folder)


def test_without_a_tokeniser(llama: Path) -> None:
    (llama / "tokenizer.json").unlink()
    with pytest.raises(ModelNotFound, match=r"no tokenizer\.json"):
        HFFolder.open(llama)


# -- files ------------------------------------------------------------------------------------------------------------


def test_files_that_count(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="no safetensors"):
        weight_files(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x02")
    with pytest.raises(ModelNotFound, match=r"pytorch_model\.bin is a pickle"):
        weight_files(tmp_path)
    (tmp_path / "model-q8_0.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelNotFound, match=r"name one of its GGUF files, model-q8_0\.gguf"):
        weight_files(tmp_path)
    write_safetensors(tmp_path / "one.safetensors", {})
    assert weight_files(tmp_path) == ["one.safetensors"]
    write_safetensors(tmp_path / "two.safetensors", {})
    with pytest.raises(ModelNotFound, match="2 safetensors files and no"):
        weight_files(tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "two.safetensors"}}))
    assert weight_files(tmp_path) == ["two.safetensors"]
    index.write_text(json.dumps({"weight_map": {"a": "three.safetensors"}}))
    with pytest.raises(ModelNotFound, match="the file is missing, one of 1"):
        weight_files(tmp_path)
    for name in ("../two.safetensors", "/etc/passwd", "two.bin"):
        index.write_text(json.dumps({"weight_map": {"a": name}}))
        with pytest.raises(CorruptFile, match="no safetensors file of this folder"):
            weight_files(tmp_path)


@pytest.mark.parametrize("text", ["", "[1]", "{", '{"a":' * 100_000])
def test_a_config_that_is_no_object(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CorruptFile, match=r"config\.json: no JSON"):
        HFFolder.open(tmp_path)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_any_change_of_a_file_is_an_error_of_ours_or_none(llama: Path, data: st.DataObject) -> None:
    path = llama / data.draw(st.sampled_from(["model.safetensors", "config.json", "tokenizer.json"]))
    before = path.read_bytes()
    at = data.draw(st.integers(0, min(len(before) - 1, 4000)))
    kind = data.draw(st.sampled_from(["cut", "flip", "insert"]))
    if kind == "cut":
        path.write_bytes(before[:at])
    elif kind == "flip":
        path.write_bytes(before[:at] + bytes([data.draw(st.integers(0, 255))]) + before[at + 1 :])
    else:
        path.write_bytes(before[:at] + data.draw(st.binary(min_size=1, max_size=9)) + before[at:])
    try:
        with suppress(BefitError), HFFolder.open(llama) as file:
            program = describe(file.metadata, file.shapes)
            for name in program.weight_names():
                file.tensors[name].dequantize()
            tokenizer.load(file.metadata).encode("hello <|im_end|>")
    finally:
        path.write_bytes(before)


def test_a_cut_file_names_the_missing_bytes(llama: Path) -> None:
    path = llama / "model.safetensors"
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match=f"end at byte {size} and the file has {size - 100} bytes"):
        HFFolder.open(llama)
