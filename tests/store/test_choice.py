"""Which files of a repository are the model that was asked for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from befit.errors import ModelNotFound
from befit.store import choice

GGUF = ["README.md", "m-Q4_K_M.gguf", "m-Q8_0.gguf", "mmproj-m-f16.gguf", "imatrix.gguf", "m-fp16.gguf"]
PARTS = [f"q8/m-q8_0-0000{n}-of-00003.gguf" for n in (1, 2, 3)]
FOLDER = ["config.json", "tokenizer.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("qwen2.5-coder-7b-instruct-q4_k_m.gguf", "q4_k_m"),
        ("codellama-7b-instruct.Q5_K_M.gguf", "q5_k_m"),
        ("Codestral-22B-v0.1-Q4_K_M.gguf", "q4_k_m"),
        ("sub/Q8_0/m-UD-Q4_K_XL-00001-of-00002.gguf", "q4_k_xl"),
        ("m.IQ4_XS.gguf", "iq4_xs"),
        ("m-BF16.gguf", "bf16"),
        ("q4.bin.f16.gguf", "f16"),
        ("qwen2.gguf", None),
    ],
)
def test_the_quantisation_is_in_the_name(file: str, expected: str | None) -> None:
    assert choice.quantisation(file) == expected


def test_without_a_wish_it_is_the_only_one_or_that_of_4_bits() -> None:
    assert choice.choose(GGUF, None, "r") == ("m-Q4_K_M.gguf",)
    assert choice.choose(["x.gguf", "README.md"], None, "r") == ("x.gguf",)
    with pytest.raises(ModelNotFound, match=r"add one of :a\.gguf, :b\.gguf"):
        choice.choose(["a.gguf", "b.gguf"], None, "r")


@pytest.mark.parametrize("wanted", ["Q8_0", "q8_0", "m-Q8_0.gguf"])
def test_a_file_or_a_quantisation(wanted: str) -> None:
    assert choice.choose(GGUF, wanted, "r") == ("m-Q8_0.gguf",)


@pytest.mark.parametrize("wanted", ["q3_k_m", "other.gguf", "mmproj-m-f16.gguf", "README.md"])
def test_what_is_not_there_is_answered_with_what_is(wanted: str) -> None:
    with pytest.raises(ModelNotFound, match=r":m-Q4_K_M\.gguf, :m-Q8_0\.gguf"):
        choice.choose(GGUF, wanted, "r")


def test_all_parts_of_a_split_model() -> None:
    for wanted in (None, "q8_0", PARTS[1], "m-q8_0-00003-of-00003.gguf"):
        assert choice.choose([*reversed(PARTS), "README.md"], wanted, "r") == tuple(PARTS)
    with pytest.raises(ModelNotFound, match="no GGUF files"):
        choice.choose(PARTS[:2], "q8_0", "r")
    assert choice.choose([*PARTS, "m-q8_0.gguf"], "q8_0", "r") == ("m-q8_0.gguf",)


def test_the_index_says_which_weights_count() -> None:
    index = {"weight_map": {"a": FOLDER[2], "b": FOLDER[3]}}
    twice = (*FOLDER, "model-00001-of-00001.safetensors", "weights.safetensors")
    assert choice.indexed(twice, index, "r") == tuple(FOLDER)
    for wrong in ({"weight_map": {"a": "other.safetensors"}}, {"weight_map": {}}, {"weight_map": 3}, [], None):
        with pytest.raises(ModelNotFound, match="names weights that it does not have"):
            choice.indexed(twice, wrong, "r")


def test_safetensors_and_what_belongs_to_them() -> None:
    others = ["README.md", "pytorch_model.bin", "consolidated.safetensors", "original/model.safetensors", "run.py"]
    assert choice.choose([*others, *FOLDER], None, "r") == tuple(FOLDER)
    with pytest.raises(
        ModelNotFound, match=r"neither GGUF files nor safetensors, but config\.json, pytorch_model\.bin"
    ):
        choice.choose(["config.json", "pytorch_model.bin"], None, "r")
    with pytest.raises(ModelNotFound, match="no GGUF files"):
        choice.choose(FOLDER, "q8_0", "r")
    with pytest.raises(ModelNotFound, match="it is empty"):
        choice.choose([], None, "r")


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 3), st.integers(1, 3)), max_size=12),
    st.sampled_from([None, "q8_0", "a-q8_0.gguf", "b-q8_0-00001-of-00002.gguf"]),
)
def test_what_is_chosen_is_always_whole(parts: list[tuple[str, int, int]], wanted: str | None) -> None:
    files = [f"{stem}-q8_0-{at:05}-of-{count:05}.gguf" for stem, at, count in parts] + ["a-q8_0.gguf", "README.md"]
    try:
        chosen = choice.choose(files, wanted, "r")
    except ModelNotFound:
        assert wanted != "a-q8_0.gguf"
        return
    assert set(chosen) <= set(files)
    if len(chosen) > 1:
        stem, _, count = chosen[0].removesuffix(".gguf").rsplit("-", 2)
        assert chosen == tuple(f"{stem[:-6]}-{at:05}-of-{count}.gguf" for at in range(1, int(count) + 1))
