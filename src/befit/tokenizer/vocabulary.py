"""The tokeniser's part of a GGUF file's metadata, read and checked.

Keys and token types are those of the GGUF specification (ggml-org/ggml, docs/gguf.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from befit.errors import CorruptFile, UnsupportedModel
from befit.tokenizer.markers import ALWAYS_CONTROL, is_end

_PREFIX = "tokenizer.ggml."
_NO_TOKEN = 0xFFFFFFFF
"""-1 as the unsigned number that files hold: the model has no such token."""


class TokenType(IntEnum):
    """What a token is, as `tokenizer.ggml.token_type` has it."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """Tokens, and which of them mean something to the model.

    kind         "gpt2": byte-level BPE; "llama": SentencePiece BPE
    tokens       spellings by id
    types        [V] TokenType by id; markers that are always control tokens are CONTROL whatever the file says
    by_spelling  id by spelling; tokens of type UNUSED and empty spellings have none
    end_ids      every id that ends a generation
    """

    kind: str
    tokens: Sequence[str]
    types: NDArray[np.uint8]
    by_spelling: dict[str, int]
    bos_id: int | None
    eos_id: int | None
    end_ids: frozenset[int]

    def of_type(self, *types: TokenType) -> list[int]:
        """Ids of the tokens that have one of the types."""
        ids: list[int] = np.flatnonzero(np.isin(self.types, types)).tolist()
        return ids


def read_vocabulary(metadata: Mapping[str, Any]) -> Vocabulary:
    """Raises UnsupportedModel without a tokeniser of a kind that befit has, CorruptFile for broken data."""
    kind = metadata.get(f"{_PREFIX}model")
    if kind not in ("gpt2", "llama"):
        what = "no tokeniser (tokenizer.ggml.model is missing)" if kind is None else f"a tokeniser of kind {kind!r}"
        raise UnsupportedModel(
            f"The model file has {what}; supported are 'gpt2' (byte-level BPE) and 'llama' (SentencePiece BPE)."
        )
    tokens = string_array(metadata, "tokens")
    if not tokens:
        raise CorruptFile("tokenizer.ggml.tokens is empty: there is no vocabulary.")
    types = _types(metadata, kind, tokens)
    by_spelling = _by_spelling(tokens, types)
    for spelling in ALWAYS_CONTROL & by_spelling.keys():
        types[by_spelling[spelling]] = TokenType.CONTROL
    bos, eos, eot, eom = (
        special_id(metadata, name, len(tokens), default)
        for name, default in (("bos", 1), ("eos", 2), ("eot", None), ("eom", None))
    )
    ends = {token for token in (eos, eot, eom) if token is not None}
    more = metadata.get(f"{_PREFIX}end_token_ids")
    for token in () if more is None else more:  # of a generation_config.json
        if not 0 <= (token := int(token)) < len(tokens):
            raise CorruptFile(f"{_PREFIX}end_token_ids holds {token}, but the ids are 0 to {len(tokens) - 1}.")
        ends.add(token)
    ends.update(i for i in np.flatnonzero(types == TokenType.CONTROL).tolist() if is_end(tokens[i]))
    return Vocabulary(
        kind=kind,
        tokens=tokens,
        types=types,
        by_spelling=by_spelling,
        bos_id=bos,
        eos_id=eos,
        end_ids=frozenset(ends),
    )


def special_id(metadata: Mapping[str, Any], name: str, size: int, sentencepiece_default: int | None) -> int | None:
    """The id under `<name>_token_id`, or None. SentencePiece files that leave BOS and EOS out mean 1 and 2."""
    key = f"{_PREFIX}{name}_token_id"
    token = metadata.get(key)
    if token is None and metadata.get(f"{_PREFIX}model") == "llama":
        token = sentencepiece_default if sentencepiece_default is not None and sentencepiece_default < size else None
    if token is None or token in (_NO_TOKEN, -1):
        return None
    if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < size:
        raise CorruptFile(f"{key} is {token!r}, but the vocabulary has the ids 0 to {size - 1}.")
    return token


def flag(metadata: Mapping[str, Any], name: str, default: bool) -> bool:
    """The boolean under `tokenizer.ggml.<name>`."""
    value = metadata.get(f"{_PREFIX}{name}", default)
    if not isinstance(value, bool):
        raise CorruptFile(f"{_PREFIX}{name} is {value!r}, not a boolean.")
    return value


def string_array(metadata: Mapping[str, Any], name: str) -> list[str]:
    """The array of strings under `tokenizer.ggml.<name>`."""
    value = metadata.get(f"{_PREFIX}{name}")
    if not isinstance(value, list) or not all(type(item) is str for item in value):
        problem = "missing" if value is None else "not an array of strings"
        raise CorruptFile(f"{_PREFIX}{name} is {problem}; fetch or convert the model file again.")
    return value


def number_array(metadata: Mapping[str, Any], name: str, length: int) -> NDArray[Any] | None:
    """The array of numbers under `tokenizer.ggml.<name>`, one for each token, or None when the key is missing."""
    value = metadata.get(f"{_PREFIX}{name}")
    if value is None:
        return None
    try:
        array = np.asarray(value)
    except ValueError as error:  # arrays within the array, of different lengths
        raise CorruptFile(f"{_PREFIX}{name} is not an array of numbers.") from error
    if array.ndim != 1 or array.dtype.kind not in "iuf":
        raise CorruptFile(f"{_PREFIX}{name} is not an array of numbers.")
    if len(array) != length:
        raise CorruptFile(f"{_PREFIX}{name} has {len(array)} entries for {length} tokens.")
    return array


def _types(metadata: Mapping[str, Any], kind: str, tokens: Sequence[str]) -> NDArray[np.uint8]:
    """[V] Token types, the file's own; without any, byte tokens of SentencePiece are known by their spelling."""
    given = number_array(metadata, "token_type", len(tokens))
    if given is None:
        types = np.full(len(tokens), TokenType.NORMAL, np.uint8)
        if kind == "llama":
            for token, spelling in enumerate(tokens):
                if byte_value(spelling) is not None:
                    types[token] = TokenType.BYTE
        return types
    known = np.isin(given, list(TokenType))
    if not known.all():
        # Type 0 ("undefined") and numbers from a later specification: nothing may match or be made of such a token.
        given = np.where(known, given, TokenType.UNUSED)
    types = given.astype(np.uint8)
    for token in np.flatnonzero(types == TokenType.BYTE).tolist():
        if byte_value(tokens[token]) is None:
            raise CorruptFile(f"Token {token} is a byte token, but is spelled {tokens[token]!r} instead of '<0x..>'.")
    return types


def byte_value(spelling: str) -> int | None:
    """The byte of a SentencePiece byte token such as `<0x0A>`, or None for another spelling."""
    if len(spelling) != 6 or not spelling.startswith("<0x") or spelling[5] != ">":
        return None
    digits = spelling[3:5]
    return int(digits, 16) if all(digit in "0123456789abcdefABCDEF" for digit in digits) else None


def _by_spelling(tokens: Sequence[str], types: NDArray[np.uint8]) -> dict[str, int]:
    ids = dict(zip(tokens, range(len(tokens)), strict=True))
    unused = np.flatnonzero(types == TokenType.UNUSED).tolist()
    if len(ids) == len(tokens) and "" not in ids:
        for token in unused:
            del ids[tokens[token]]
        return ids
    ids.clear()
    skipped = set(unused)
    for token, spelling in enumerate(tokens):
        if not spelling or token in skipped:
            continue
        if spelling in ids:
            raise CorruptFile(f"Tokens {ids[spelling]} and {token} have the same spelling {spelling[:80]!r}.")
        ids[spelling] = token
    return ids
