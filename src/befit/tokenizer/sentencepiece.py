"""SentencePiece BPE: spaces written as ▁, merges ranked by the score of the piece that they make, bytes as a fallback.

SentencePiece (google/sentencepiece, src/bpe_model.cc) stores no merges: it joins the neighbours whose join is the
piece with the highest score, leftmost first. The `tokenizers` library wants a ranked list of pairs, so every way to
cut a piece into two pieces becomes a merge, ranked by the piece's score; among equal scores, longer left parts come
first, as in the conversion that made the published tokenizer.json files (huggingface/transformers,
convert_slow_tokenizer.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import models

from befit.errors import CorruptFile
from befit.tokenizer.vocabulary import TokenType, Vocabulary

SPACE = "▁"


def space_runs(vocabulary: Vocabulary) -> dict[str, str]:
    """User-defined pieces that are two or more spaces, as Gemma has: from their spelling in the file to ▁▁.

    They are not matched in raw text like other user-defined pieces but made by merging, as in the published
    tokenizer.json; what is matched in raw text is a literal ▁▁. A vocabulary that has a ▁▁ besides keeps them raw.
    """
    runs: dict[str, str] = {}
    for token in vocabulary.of_type(TokenType.USER_DEFINED):
        spelling = vocabulary.tokens[token]
        if len(spelling) > 1 and not spelling.strip(f" {SPACE}"):
            run = SPACE * len(spelling)
            if vocabulary.by_spelling.get(run, token) == token:
                runs[spelling] = run
    return runs


def bpe(vocabulary: Vocabulary, scores: NDArray[Any]) -> models.BPE:
    """The merging model. scores: [V], higher merges first.

    Merges make ordinary tokens, and `space_runs`, which come before all others: a run is joined before a word can take
    the last ▁ of it.
    """
    if np.isnan(scores).any():
        raise CorruptFile(f"tokenizer.ggml.scores[{int(np.isnan(scores).argmax())}] is not a number.")
    ids = dict(vocabulary.by_spelling)
    pieces = {vocabulary.tokens[token]: float(scores[token]) for token in vocabulary.of_type(TokenType.NORMAL)}
    pieces.pop("", None)
    for spelling, run in space_runs(vocabulary).items():
        ids[run] = ids.pop(spelling)
        pieces[run] = float("inf")
    unknown = next(iter(vocabulary.of_type(TokenType.UNKNOWN)), None)
    return models.BPE(
        vocab=ids,
        merges=merges(pieces),
        unk_token=vocabulary.tokens[unknown] if unknown is not None else None,
        fuse_unk=True,
        byte_fallback=True,
    )


def merges(pieces: Mapping[str, float]) -> list[tuple[str, str]]:
    """Every pair of pieces that joins to a piece, best first; `pieces` maps spellings to scores."""
    pairs: list[tuple[str, str]] = []
    ranked = sorted(pieces, key=pieces.__getitem__, reverse=True)
    for _, equals in groupby(ranked, key=pieces.__getitem__):
        start = len(pairs)
        for piece in equals:
            for cut in range(len(piece) - 1, 0, -1):
                if (right := piece[cut:]) in pieces and (left := piece[:cut]) in pieces:
                    pairs.append((left, right))
        pairs[start:] = sorted(pairs[start:], key=_longest_left)
    return pairs


def _longest_left(pair: tuple[str, str]) -> tuple[int, int]:
    return -len(pair[0]), -len(pair[1])
