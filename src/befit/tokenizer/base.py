"""What the engine and the protocols need of a tokeniser."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class Tokenizer(Protocol):
    """Text to token ids and back. Built from a model file's own data by `befit.tokenizer.load`."""

    vocab_size: int
    bos_id: int | None
    eos_ids: frozenset[int]
    """Every id that ends a generation: end of sequence, end of turn, end of text."""
    adds_bos: bool
    control_tokens: Mapping[str, int]
    """Id of every control token by its spelling."""

    def encode(self, text: str, *, add_special: bool = True, parse_special: bool = True) -> list[int]:
        """Token ids of `text`. add_special: put BOS/EOS where the model's rules want them.
        parse_special: spellings of control tokens in the text become those tokens; otherwise they are plain text."""
        ...

    def decode(self, ids: list[int], *, skip_special: bool = True) -> str:
        """Text of `ids`; bytes that are no valid UTF-8 become U+FFFD."""
        ...

    def token_bytes(self, token: int, *, skip_special: bool = True) -> bytes:
        """The bytes that one token adds to a text (empty for control tokens when skip_special)."""
        ...

    def token_text(self, token: int) -> str:
        """The token's own spelling, for log-probability listings: its bytes as text, control tokens as written."""
        ...

    def token_id(self, spelling: str) -> int | None:
        """The id of a token by its exact spelling in the vocabulary, or None."""
        ...

    def is_special(self, token: int) -> bool:
        """Whether the token is a control token."""
        ...
