"""Any text that a client can send becomes tokens and text again, however odd or long."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vocabularies import byte_level, sentencepiece

from befit import tokenizer
from befit.errors import InvalidRequest
from befit.tokenizer import Tokenizer

CONTROL = "<|endoftext|>"
ODD = st.sampled_from(
    ["\0", "\ud800", "\udfff", "\ufeff", "\u202e", "e\u0301", "👩‍👩‍👧", CONTROL, CONTROL[:-1], "<0x41>", "▁", " " * 50]
)
MADE = {
    "byte level": tokenizer.load(byte_level(["h e", "he l"])),
    "sentencepiece": tokenizer.load(sentencepiece({"a": -1.0, "▁a": -2.0})),
}


@pytest.fixture(params=MADE)
def made(request: pytest.FixtureRequest) -> Tokenizer:
    return MADE[request.param]


def sendable(text: str) -> str:
    """The text as a server has it after JSON: two halves in a row have become a character, lone surrogates stay."""
    decoded: str = json.loads(json.dumps(text))
    return decoded


@pytest.mark.parametrize("name", MADE)
@given(st.lists(st.one_of(ODD, st.text(max_size=6)), max_size=12).map("".join))
def test_any_text_has_tokens_and_comes_back(name: str, text: str) -> None:
    made = MADE[name]
    text = sendable(text)
    if any("\ud800" <= character <= "\udfff" for character in text):
        with pytest.raises(InvalidRequest, match="surrogate"):
            made.encode(text)
        return
    ids = made.encode(text, parse_special=False)
    assert all(0 <= token < made.vocab_size for token in ids)
    shown = made.decode(ids)
    if name == "byte level":
        assert shown == text
    parsed = made.encode(text)
    assert all(0 <= token < made.vocab_size for token in parsed)


def test_a_long_text_is_encoded_whole(made: Tokenizer) -> None:
    text = "def f(x):\n    return x + 1\n" * 8_000
    assert len(text) > 200_000
    ids = made.encode(text)
    assert len(ids) > len(text) // 3
    if made is MADE["byte level"]:
        assert made.decode(ids) == text
