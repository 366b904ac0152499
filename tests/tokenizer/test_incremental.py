"""Text as it comes: every character whole, nothing lost, the same text as decoding at once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vocabularies import byte_level, sentencepiece

from befit import tokenizer
from befit.tokenizer import IncrementalDecoder, Tokenizer

BYTES = tokenizer.load(byte_level(["Ã ©", "ð Ł", "ðŁ ĺ"], control=["<|im_end|>"], user_defined=["<é>"]))
PIECES = tokenizer.load(sentencepiece({"▁": -9, "é": -8, "▁f": -1}, control=["[x]"], user_defined=["\n\n"]))


def streamed(made: Tokenizer, ids: list[int], *, skip_special: bool = True) -> list[str]:
    decoder = IncrementalDecoder(made, skip_special=skip_special)
    return [*map(decoder.push, ids), decoder.flush()]


def test_a_character_comes_with_the_token_that_completes_it() -> None:
    ids = list("a🙂é".encode())
    assert streamed(BYTES, ids) == ["a", "", "", "", "🙂", "", "é", ""]


def test_a_character_that_stays_incomplete_becomes_a_replacement_character_at_the_end() -> None:
    assert streamed(BYTES, list("🙂".encode())[:3]) == ["", "", "", "\ufffd"]


def test_bytes_that_can_never_be_valid_do_not_wait() -> None:
    assert streamed(BYTES, [0xFF, 0x41]) == ["\ufffd", "A", ""]
    assert streamed(BYTES, [0xC3, 0x41]) == ["", "\ufffdA", ""]


def test_a_control_token_inside_a_character_adds_nothing() -> None:
    end = BYTES.token_id("<|im_end|>")
    assert end is not None
    assert "".join(streamed(BYTES, [0xC3, end, 0xA9])) == "é"
    assert "".join(streamed(BYTES, [end], skip_special=False)) == "<|im_end|>"


def test_a_continuation_keeps_its_first_space() -> None:
    word = PIECES.token_id("▁f")
    assert word is not None
    assert streamed(PIECES, [word]) == [" f", ""]


@pytest.mark.parametrize("made", [BYTES, PIECES])
@given(data=st.data(), skip_special=st.booleans())
def test_streaming_any_tokens_is_decoding_them(made: Tokenizer, data: st.DataObject, skip_special: bool) -> None:
    ids = data.draw(
        st.lists(st.integers(0, made.vocab_size + 3), max_size=40).filter(lambda ids: ids[:1] != [made.bos_id])
    )
    assert "".join(streamed(made, ids, skip_special=skip_special)) == made.decode(ids, skip_special=skip_special)


@given(st.text())
def test_no_replacement_character_for_valid_text(text: str) -> None:
    pieces = streamed(BYTES, BYTES.encode(text, parse_special=False))
    assert "".join(pieces) == text
    assert sum(piece.count("\ufffd") for piece in pieces) == text.count("\ufffd")
