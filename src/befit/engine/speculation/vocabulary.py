"""A draft model must mean the same by each token id as its target."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from befit.errors import ConfigError
from befit.tokenizer.vocabulary import TokenType, number_array, string_array


def check_vocabulary(ref: str, target: Mapping[str, Any], draft: Mapping[str, Any]) -> None:
    """Raise ConfigError unless each token id is spelled alike in both models' metadata.

    One vocabulary may be longer by unused tokens, with which some models are padded.
    """
    ours, theirs = string_array(target, "tokens"), string_array(draft, "tokens")
    for token, (mine, other) in enumerate(zip(ours, theirs, strict=False)):
        if mine != other:
            raise ConfigError(
                f"The draft model {ref} has another vocabulary: token {token} is {other[:80]!r} there and "
                f"{mine[:80]!r} in the model; choose a smaller model of the same family as draft."
            )
    shared = min(len(ours), len(theirs))
    metadata, tokens = (target, ours) if len(ours) > shared else (draft, theirs)
    types = number_array(metadata, "token_type", len(tokens))
    if len(tokens) > shared and (types is None or (types[shared:] != TokenType.UNUSED).any()):
        raise ConfigError(
            f"The draft model {ref} has another vocabulary: {len(theirs)} tokens, and the model has {len(ours)}; "
            "choose a smaller model of the same family as draft."
        )
