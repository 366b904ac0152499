"""Log-probabilities in OpenAI's two formats (completions: parallel lists; chat: objects) and vLLM's for prompts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from befit.engine.outputs import TokenLogprob

if TYPE_CHECKING:
    from befit.tokenizer.base import Tokenizer


_LOWEST = -9999.0
"""What stands for minus infinity, which JSON cannot say (OpenAI's value)."""


class LogprobWriter:
    """Spells tokens for log-probability listings.

    A token whose bytes are not whole characters is spelled `bytes:\\xe2\\x82`, so that different tokens never share a
    name; with `as_ids`, every token is spelled `token_id:123`.
    """

    def __init__(self, tokenizer: Tokenizer, *, skip_special: bool, as_ids: bool = False) -> None:
        self._tokenizer = tokenizer
        self._skip_special = skip_special
        self._as_ids = as_ids
        self._spelled: dict[int, str] = {}

    def spell(self, token: int) -> str:
        """The token's name."""
        text = self._spelled.get(token)
        if text is None:
            text = f"token_id:{token}" if self._as_ids else self._spell(token)
            self._spelled[token] = text
        return text

    def _spell(self, token: int) -> str:
        raw = self._tokenizer.token_bytes(token, skip_special=False)
        try:
            return raw.decode() if raw else self._tokenizer.token_text(token)
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)

    def chars(self, token: int) -> int:
        """Characters that start in this token: what it adds to the length of the text."""
        raw = self._tokenizer.token_bytes(token, skip_special=self._skip_special)
        return sum((byte & 0xC0) != 0x80 for byte in raw)

    def completion(
        self, tokens: list[int], logprobs: list[TokenLogprob | None], *, top: bool, offset: int
    ) -> tuple[dict[str, Any], int]:
        """The completions format for `tokens` whose text begins at character `offset`; also the offset after them.

        The chosen token is always among top_logprobs. A prompt's first token has null in both lists.
        """
        names, values, tops, offsets = [], [], [], []
        for token, entry in zip(tokens, logprobs, strict=True):
            names.append(self.spell(token))
            offsets.append(offset)
            offset += self.chars(token)
            values.append(None if entry is None else max(entry.logprob, _LOWEST))
            tops.append(None if entry is None or not top else self._top(entry))
        block = {"tokens": names, "token_logprobs": values, "top_logprobs": tops, "text_offset": offsets}
        return block, offset

    def _top(self, entry: TokenLogprob) -> dict[str, float]:
        listed = {self.spell(token): max(value, _LOWEST) for token, value in reversed(entry.top)}
        listed.setdefault(self.spell(entry.token_id), max(entry.logprob, _LOWEST))
        return dict(sorted(listed.items(), key=lambda item: -item[1]))

    def chat(self, logprobs: list[TokenLogprob], top: int) -> dict[str, Any]:
        """The chat format: one object a token, with its `top` likeliest alternatives."""
        content = [
            {
                **self._object(entry.token_id, entry.logprob),
                "top_logprobs": [self._object(token, value) for token, value in entry.top[:top]],
            }
            for entry in logprobs
        ]
        return {"content": content, "refusal": None}

    def _object(self, token: int, logprob: float) -> dict[str, Any]:
        raw = self._tokenizer.token_bytes(token, skip_special=False)
        return {"token": self.spell(token), "logprob": max(logprob, _LOWEST), "bytes": list(raw)}

    def prompt(self, logprobs: list[TokenLogprob | None]) -> list[dict[str, Any] | None]:
        """vLLM's prompt_logprobs: a list over positions of token id -> log-probability, rank and spelling."""
        listed: list[dict[str, Any] | None] = []
        for entry in logprobs:
            if entry is None:
                listed.append(None)
                continue
            options = {
                str(token): {"logprob": max(value, _LOWEST), "rank": rank, "decoded_token": self.spell(token)}
                for rank, (token, value) in enumerate(entry.top, 1)
            }
            chosen = max(entry.logprob, _LOWEST)
            own = {"logprob": chosen, "rank": entry.rank, "decoded_token": self.spell(entry.token_id)}
            listed.append({str(entry.token_id): own, **options})
        return listed
