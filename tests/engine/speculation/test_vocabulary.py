"""A draft model must mean the same by every token id."""

from __future__ import annotations

from typing import Any

import pytest

from befit.engine.speculation.vocabulary import check_vocabulary
from befit.errors import ConfigError
from befit.tokenizer.vocabulary import TokenType

WORDS = [f"w{i}" for i in range(20)]


def metadata(words: list[str], *, unused: int = 0) -> dict[str, Any]:
    words = [*words, *(f"[PAD{i}]" for i in range(unused))]
    types = [int(TokenType.NORMAL)] * (len(words) - unused) + [int(TokenType.UNUSED)] * unused
    return {"tokenizer.ggml.tokens": words, "tokenizer.ggml.token_type": types}


@pytest.mark.parametrize(("ours", "theirs"), [(0, 0), (4, 0), (0, 4), (4, 2)])
def test_equal_vocabularies_may_be_padded_differently(ours: int, theirs: int) -> None:
    check_vocabulary("small", metadata(WORDS, unused=ours), metadata(WORDS, unused=theirs))


def test_another_spelling_is_refused_and_named() -> None:
    other = [*WORDS[:7], "seven", *WORDS[8:]]
    with pytest.raises(
        ConfigError, match="small has another vocabulary: token 7 is 'seven' there and 'w7' in the model"
    ):
        check_vocabulary("small", metadata(WORDS), metadata(other))


@pytest.mark.parametrize(("ours", "theirs"), [(WORDS, WORDS[:-1]), (WORDS[:-1], WORDS)])
def test_more_words_are_refused(ours: list[str], theirs: list[str]) -> None:
    with pytest.raises(ConfigError, match=f"{len(theirs)} tokens, and the model has {len(ours)}"):
        check_vocabulary("small", metadata(ours), metadata(theirs))
