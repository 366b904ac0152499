"""Text from tokens as they come: exact bytes, whole characters only."""

from __future__ import annotations

from codecs import utf_8_decode
from collections.abc import Collection

from befit.tokenizer.base import Tokenizer


class IncrementalDecoder:
    """Tokens in, text out; a character is given out with the token that completes it.

    Tokens are bytes, and a character may be spread over several of them, so the end of what has come may be half a
    character: it is held back until the rest comes or `flush` says that none will. U+FFFD stands for bytes that no
    later byte can make valid, and in `flush` for a character that stayed incomplete, as in `bytes.decode` with
    errors="replace": the pieces of any sequence of tokens join to what decoding its bytes at once gives.

    The tokens continue a text, so a space at the front is text too: after "def" the SentencePiece token "▁foo" is
    " foo". (`Tokenizer.decode` drops the space that a tokeniser puts before a whole text, one that begins with BOS.)
    """

    __slots__ = ("_pending", "_shown", "_skip_special", "_token_bytes")

    def __init__(
        self, tokenizer: Tokenizer, *, skip_special: bool = True, shown: Collection[int] = frozenset()
    ) -> None:
        """shown: control tokens that are text even with skip_special."""
        self._token_bytes = tokenizer.token_bytes
        self._skip_special = skip_special
        self._shown = shown
        self._pending = b""

    def push(self, token: int) -> str:
        """The text that this token completes."""
        data = self._token_bytes(token, skip_special=self._skip_special and token not in self._shown)
        if self._pending:
            data = self._pending + data
        text, consumed = utf_8_decode(data, "replace", False)
        self._pending = data[consumed:]
        return text

    def flush(self) -> str:
        """The rest: no more tokens come. An incomplete character becomes U+FFFD."""
        rest, self._pending = self._pending, b""
        return rest.decode("utf-8", "replace")
