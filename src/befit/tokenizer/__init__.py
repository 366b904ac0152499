"""Text to token ids and back, from a model file's own data.

`load(metadata)` builds the tokeniser that a GGUF file describes; `IncrementalDecoder` turns generated tokens into text
as they come.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from befit.tokenizer.base import Tokenizer
from befit.tokenizer.incremental import IncrementalDecoder

__all__ = ["IncrementalDecoder", "Tokenizer", "load"]


def load(metadata: Mapping[str, Any]) -> Tokenizer:
    """The tokeniser of a GGUF file.

    Raises CorruptFile for data that contradicts itself and UnsupportedModel for a kind of tokeniser, or a way of
    splitting text into words, that befit does not have.
    """
    from befit.tokenizer.gguf import GGUFTokenizer

    return GGUFTokenizer(metadata)
