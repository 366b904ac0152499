"""Metadata that contradicts itself is refused with a typed error that says what is wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from vocabularies import byte_level, sentencepiece

from befit import tokenizer
from befit.errors import CorruptFile, ModelError, UnsupportedModel

KEY = "tokenizer.ggml."
GOOD = byte_level(["h e"], control=["<|endoftext|>"], bos_token_id=257, eos_token_id=257)
PIECES = sentencepiece({"a": -1.0})


@pytest.mark.parametrize(
    ("metadata", "error", "message"),
    [
        ({}, UnsupportedModel, "tokenizer.ggml.model is missing"),
        (GOOD | {KEY + "model": "bert"}, UnsupportedModel, "'bert'.*'gpt2'"),
        (GOOD | {KEY + "pre": 3}, CorruptFile, "pre is 3"),
        (GOOD | {KEY + "tokens": None}, CorruptFile, "tokens is missing"),
        (GOOD | {KEY + "tokens": []}, CorruptFile, "empty"),
        (GOOD | {KEY + "tokens": [1, 2]}, CorruptFile, "not an array of strings"),
        (GOOD | {KEY + "tokens": ["a", "a"], KEY + "token_type": None}, CorruptFile, "Tokens 0 and 1"),
        (GOOD | {KEY + "token_type": np.ones(3, np.int32)}, CorruptFile, "3 entries for 258 tokens"),
        (GOOD | {KEY + "token_type": "x"}, CorruptFile, "not an array of numbers"),
        (GOOD | {KEY + "token_type": [[1], [1, 2]]}, CorruptFile, "not an array of numbers"),
        (GOOD | {KEY + "merges": None}, CorruptFile, "merges is missing"),
        (GOOD | {KEY + "merges": ["h"]}, CorruptFile, r"merges\[0\] is 'h'"),
        (GOOD | {KEY + "merges": ["h e", "h e l"]}, CorruptFile, r"merges\[1\]"),
        (GOOD | {KEY + "merges": ["e h"]}, CorruptFile, "does not fit"),
        (GOOD | {KEY + "merges": ["zz zz"]}, CorruptFile, "does not fit"),
        (GOOD | {KEY + "eos_token_id": 258}, CorruptFile, "eos_token_id is 258.*0 to 257"),
        (GOOD | {KEY + "bos_token_id": -5}, CorruptFile, "bos_token_id is -5"),
        (GOOD | {KEY + "bos_token_id": "x"}, CorruptFile, "bos_token_id is 'x'"),
        (GOOD | {KEY + "add_bos_token": 1}, CorruptFile, "add_bos_token is 1, not a boolean"),
        (GOOD | {KEY + "bos_token_id": None, KEY + "add_bos_token": True}, CorruptFile, "bos_token_id is missing"),
        (GOOD | {KEY + "eos_token_id": None, KEY + "add_eos_token": True}, CorruptFile, "eos_token_id is missing"),
        (PIECES | {KEY + "scores": None}, CorruptFile, "scores is missing"),
        (PIECES | {KEY + "scores": np.full(260, np.nan)}, CorruptFile, r"scores\[0\] is not a number"),
        (PIECES | {KEY + "scores": np.zeros(2)}, CorruptFile, "2 entries for 260 tokens"),
        (PIECES | {KEY + "token_type": np.full(260, 6)}, CorruptFile, "Token 0 is a byte token.*'<unk>'"),
    ],
)  # fmt: skip
def test_broken_metadata(metadata: dict[str, Any], error: type[ModelError], message: str) -> None:
    with pytest.raises(error, match=message):
        tokenizer.load(metadata)


def test_the_id_that_stands_for_none_is_none() -> None:
    assert tokenizer.load(GOOD | {KEY + "bos_token_id": 0xFFFFFFFF}).bos_id is None


def test_empty_and_unused_tokens_are_never_matched_and_add_no_text() -> None:
    metadata = byte_level(control=["", ""], user_defined=["[PAD]", "[PAD]"])
    metadata[KEY + "token_type"][-2:] = 5
    made = tokenizer.load(metadata)
    assert made.encode("[PAD]") == [*b"[PAD]"]
    assert made.decode([256, 257, 258, 259]) == ""


def test_byte_tokens_are_known_without_types() -> None:
    made = tokenizer.load({key: value for key, value in PIECES.items() if key != KEY + "token_type"})
    assert made.token_bytes(3 + 0x41) == b"A"


@given(
    st.fixed_dictionaries(
        {
            KEY + "model": st.sampled_from(["gpt2", "llama"]),
            KEY + "tokens": st.lists(st.text("ab▁<0x41>", max_size=6), max_size=12),
        },
        optional={
            KEY + "token_type": st.lists(st.integers(-1, 8), max_size=12).map(lambda items: np.array(items, np.int32)),
            KEY + "scores": st.lists(st.floats(width=32), max_size=12).map(lambda items: np.array(items, np.float32)),
            KEY + "merges": st.lists(st.text("ab ", max_size=5), max_size=5),
            KEY + "bos_token_id": st.integers(-2, 12),
            KEY + "eos_token_id": st.integers(-2, 12),
            KEY + "add_bos_token": st.booleans(),
            KEY + "pre": st.sampled_from(["qwen2", "nonsense", "default"]),
        },
    )
)
def test_any_metadata_loads_or_is_refused(metadata: dict[str, Any]) -> None:
    try:
        made = tokenizer.load(metadata)
    except ModelError:
        return
    ids = made.encode("ab <0x41> é")
    assert all(0 <= token < made.vocab_size for token in ids)
    made.decode(ids)
