"""Byte-level BPE: merges in order, special tokens, and text that comes back byte for byte."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vocabularies import byte_level

from befit import tokenizer
from befit.errors import InvalidRequest, UnsupportedModel
from befit.tokenizer.pretokenizers import SPLITTINGS

PLAIN = tokenizer.load(byte_level(["h e", "l l", "Ġ w", "he ll"], control=["<|im_end|>", "<s>"], user_defined=["<t>"]))


def test_merges_apply_in_the_order_of_the_file() -> None:
    assert [PLAIN.token_text(token) for token in PLAIN.encode("hello world")] == ["hell", "o", " w", "o", "r", "l", "d"]


@pytest.mark.parametrize("pre", sorted(SPLITTINGS))
def test_every_splitting_gives_the_text_back(pre: str) -> None:
    made = tokenizer.load(byte_level(["Ġ Ġ", "a b"], pre=pre))
    text = "def f(x1):\r\n\treturn x1 + 42  # été, 你好 🙂 I'll\n\n  done"
    assert made.decode(made.encode(text)) == text


@given(st.text())
def test_decoding_undoes_encoding(text: str) -> None:
    for parse_special in (True, False):
        ids = PLAIN.encode(text, parse_special=parse_special)
        assert PLAIN.decode(ids, skip_special=False) == text


@given(st.text(st.sampled_from("<|im_end>st héé \n"), max_size=30))
def test_spellings_of_special_tokens_come_back_too(text: str) -> None:
    for parse_special in (True, False):
        ids = PLAIN.encode(text, parse_special=parse_special)
        assert PLAIN.decode(ids, skip_special=False) == text
        assert parse_special or not any(map(PLAIN.is_special, ids))


def test_control_tokens_are_parsed_only_on_request_and_user_defined_ones_always() -> None:
    end, user = PLAIN.token_id("<|im_end|>"), PLAIN.token_id("<t>")
    assert PLAIN.encode("<|im_end|><t>") == [end, user]
    assert PLAIN.encode("<|im_end|><t>", parse_special=False) == [*b"<|im_end|>", user]
    assert PLAIN.is_special(end or 0)
    assert not PLAIN.is_special(user or 0)


def test_control_tokens_have_a_spelling_but_add_no_text() -> None:
    ids = PLAIN.encode("a<|im_end|>b<t>")
    assert PLAIN.decode(ids) == "ab<t>"
    assert PLAIN.decode(ids, skip_special=False) == "a<|im_end|>b<t>"
    assert PLAIN.token_text(ids[1]) == "<|im_end|>"


def test_half_a_surrogate_pair_is_refused_with_its_place() -> None:
    with pytest.raises(InvalidRequest, match=r"character 2 is U\+D83D"):
        PLAIN.encode("ok\ud83d")


def test_bos_is_added_where_the_file_says_and_never_twice() -> None:
    made = tokenizer.load(
        byte_level(control=["<|bos|>", "<|eos|>"], bos_token_id=256, eos_token_id=257, add_bos_token=True)
    )
    assert made.encode("a") == [256, 97]
    assert made.encode("<|bos|>a") == [256, 97]
    assert made.encode("a", add_special=False) == [97]
    assert made.encode("") == [256]


def test_eos_is_added_where_the_file_says() -> None:
    made = tokenizer.load(byte_level(control=["<|eos|>"], eos_token_id=256, add_eos_token=True))
    assert made.encode("a") == [97, 256]


@pytest.mark.parametrize(("pre", "adds"), [("llama-bpe", True), ("tekken", True), ("gpt-2", False), ("qwen2", False)])
def test_without_a_word_in_the_file_the_family_decides_about_bos(pre: str, adds: bool) -> None:
    assert tokenizer.load(byte_level(pre=pre, bos_token_id=256)).adds_bos is adds


def test_every_known_end_marker_ends_a_generation() -> None:
    made = tokenizer.load(byte_level(control=["<|endoftext|>", "<|im_end|>", "<|x|>", "</s>"], eot_token_id=258))
    assert made.eos_ids == {256, 257, 258, 259}


def test_an_end_of_turn_that_the_file_calls_text_still_ends_a_generation() -> None:
    made = tokenizer.load(byte_level(user_defined=["<|im_end|>", "</s>"]))
    assert made.eos_ids == {256, 257}  # </s> may be the HTML tag
    assert made.encode("<|im_end|>", parse_special=False) == [*b"<|im_end|>"]


@pytest.mark.parametrize(
    ("known", "pre"),
    [
        ({"general.architecture": "qwen2"}, "qwen2"),
        ({"general.architecture": "starcoder2"}, "starcoder"),
        ({"general.architecture": "llama"}, "gpt-2"),
    ],
)
def test_files_that_name_no_splitting_get_their_familys(known: dict[str, str], pre: str) -> None:
    merges = ["1 2", "Ġ '", "' L", "'L L"]
    text = "I'LL take 12 '"
    named = tokenizer.load(byte_level(merges, pre=pre)).encode(text)
    for missing in (None, "default"):
        assert tokenizer.load(byte_level(merges, pre=missing) | known).encode(text) == named


def test_an_unknown_splitting_is_named_with_those_that_work() -> None:
    with pytest.raises(UnsupportedModel, match=r"'martian'.*qwen2"):
        tokenizer.load(byte_level(pre="martian"))
