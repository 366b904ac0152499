"""SentencePiece BPE: the join with the best score first, bytes for what has no piece, and spaces as ▁."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import assume, given
from hypothesis import strategies as st
from vocabularies import sentencepiece

from befit import tokenizer
from befit.tokenizer import Tokenizer

LETTERS = {letter: -100.0 - at for at, letter in enumerate("▁abcdeh\n")}


def load(pieces: dict[str, float], **options: object) -> Tokenizer:
    return tokenizer.load(sentencepiece(LETTERS | pieces, **options))  # type: ignore[arg-type]


def spellings(made: Tokenizer, text: str, **options: bool) -> list[str]:
    return [made.token_text(token) for token in made.encode(text, **options)]


def by_the_book(pieces: dict[str, float], text: str) -> list[str]:
    """SentencePiece's own rule: of all neighbours that join to a piece, join those with the best score, leftmost."""
    symbols = list(text)
    while True:
        joins = [
            (-pieces[left + right], at) for at, (left, right) in enumerate(pairwise(symbols)) if left + right in pieces
        ]
        if not joins:
            return symbols
        _, at = min(joins)
        symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]


@given(st.data())
def test_ids_are_those_of_joining_by_score(data: st.DataObject) -> None:
    known = list("▁abc")
    for left, right in data.draw(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), max_size=12)):
        piece = known[left % len(known)] + known[right % len(known)]
        # A piece with two cuts has its merges ranked one after the other, and a run of one letter can tell.
        if sum(piece[:cut] in known and piece[cut:] in known for cut in range(1, len(piece))) == 1:
            known.append(piece)
    known = list(dict.fromkeys(known))
    scores = data.draw(st.permutations(range(len(known))))
    pieces = dict(zip(known, map(float, scores), strict=True))
    assume(all(sum(p[:i] in pieces and p[i:] in pieces for i in range(1, len(p))) <= 1 for p in pieces))
    text = data.draw(st.text("abc ", max_size=30))
    made = tokenizer.load(sentencepiece(pieces, add_bos_token=False, add_space_prefix=False))
    expected = by_the_book(pieces, text.replace(" ", "▁"))
    assert spellings(made, text) == [piece.replace("▁", " ") for piece in expected]


@given(st.text().filter(lambda text: "▁" not in text))
def test_decoding_a_text_from_its_start_gives_it_back(text: str) -> None:
    for space_prefix in (True, False):
        made = load({"ab": -1, "▁a": -2}, add_space_prefix=space_prefix)
        ids = made.encode(text, parse_special=False)
        assert ids[0] == made.bos_id
        assert made.decode(ids) == text


def test_a_text_gets_a_space_in_front_and_a_continuation_keeps_its_own() -> None:
    made = load({"▁a": -1})
    assert spellings(made, "a") == ["<s>", " a"]
    assert made.decode(made.encode("a")) == "a"
    assert made.decode(made.encode("a", add_special=False)) == " a"
    assert spellings(load({"▁a": -1}, add_space_prefix=False), "a") == ["<s>", "a"]


def test_the_space_comes_after_special_tokens_too() -> None:
    assert spellings(load({"▁a": -1}), "a</s>a") == ["<s>", " a", "</s>", " a"]


def test_mistrals_instruct_vocabularies_put_the_space_only_at_the_start_of_plain_text() -> None:
    made = load({"▁a": -1}, control=["[INST]", "[/INST]"])
    assert spellings(made, "[INST] a[/INST]a") == ["<s>", "[INST]", " a", "[/INST]", "a"]
    assert spellings(made, "a[INST]") == ["<s>", " a", "[INST]"]
    assert spellings(made, "a", add_special=False, parse_special=False) == ["a"]
    assert made.decode(made.encode("[INST] a")) == " a"


def test_what_has_no_piece_becomes_bytes() -> None:
    made = load({}, add_space_prefix=False)
    ids = made.encode("é")
    assert ids == [1, 3 + 0xC3, 3 + 0xA9]
    assert made.decode(ids) == "é"
    assert made.token_bytes(ids[1]) == b"\xc3"


def test_gemmas_runs_of_spaces_come_before_words_and_runs_of_newlines_are_matched_raw() -> None:
    made = load({"▁a": -1}, user_defined=["  ", "   ", "\n\n"], add_space_prefix=False)
    assert spellings(made, "   a") == ["<s>", "   ", "a"]
    assert spellings(made, "    a a") == ["<s>", "   ", " a", " a"]
    assert spellings(made, "\n\n\n") == ["<s>", "\n\n", "\n"]


def test_bos_and_eos_are_1_and_2_where_the_file_does_not_say() -> None:
    made = load({})
    assert (made.bos_id, made.eos_ids, made.adds_bos) == (1, {2}, True)


def test_codellamas_infill_markers_are_control_tokens_whatever_the_file_says() -> None:
    made = load({"▁<PRE>": 0.0, "▁<EOT>": 0.0})
    pre, end = made.token_id("▁<PRE>"), made.token_id("▁<EOT>")
    assert pre is not None
    assert made.is_special(pre)
    assert end in made.eos_ids
    assert made.encode("▁<PRE>") == [1, pre]
    assert pre not in made.encode(" <PRE>")
