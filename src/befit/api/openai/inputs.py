"""Texts or token ids, one or many, as `prompt` and `input` bring them."""

from __future__ import annotations

from typing import Any

from befit.errors import InvalidRequest

MAX_PROMPTS = 1024


def parse_inputs(value: Any, vocab_size: int, *, param: str, most: int = MAX_PROMPTS) -> list[str | list[int]]:
    """Each text or list of token ids of a field. Raises InvalidRequest for any other shape."""
    if isinstance(value, str) or _token_ids(value):
        value = [value]
    if not isinstance(value, list) or not value:
        raise InvalidRequest(
            f"{param} must be a string, a list of strings, a list of token ids or a list of token id lists, not empty.",
            param,
        )
    if len(value) > most:
        raise InvalidRequest(f"{param} holds {len(value)} entries; at most {most} a request.", param)
    for position, one in enumerate(value):
        if isinstance(one, str):
            continue
        if not _token_ids(one):
            raise InvalidRequest(f"{param}[{position}] is neither a string nor a list of token ids.", param)
        check_ids(one, vocab_size, f"{param}[{position}]", param)
    return value


def check_ids(ids: list[int], vocab_size: int, what: str, param: str) -> None:
    """Raise InvalidRequest for an id that the vocabulary does not have."""
    wrong = next((token for token in ids if not 0 <= token < vocab_size), None)
    if wrong is not None:
        raise InvalidRequest(f"{what} holds token {wrong}; the model's tokens are 0 to {vocab_size - 1}.", param)


def _token_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(one) is int for one in value)
