"""The text of one sequence as its tokens come: whole characters only, cut at stop strings."""

from __future__ import annotations

from befit.engine.stop import StopStrings
from befit.sampling import SamplingParams
from befit.tokenizer.base import Tokenizer
from befit.tokenizer.incremental import IncrementalDecoder


class OutputText:
    """Tokens in, text that may be shown out. After `push` or `finish`, `stopped` is the stop string that was met."""

    def __init__(self, tokenizer: Tokenizer, params: SamplingParams) -> None:
        self._decoder = IncrementalDecoder(
            tokenizer, skip_special=params.skip_special_tokens, shown=frozenset(params.shown_tokens)
        )
        self._stop = StopStrings(params.stop, include=params.include_stop_str_in_output) if params.stop else None

    @property
    def stopped(self) -> str | None:
        """The stop string that ended the output, if one did."""
        return self._stop.matched if self._stop is not None else None

    def push(self, token: int, *, armed: bool) -> str:
        """Text that `token` lets through. Unarmed (below min_tokens), stop strings do not count."""
        piece = self._decoder.push(token)
        if self._stop is None or not piece:
            return piece
        return self._stop.push(piece, armed=armed)

    def finish(self, *, armed: bool) -> str:
        """No more tokens: an incomplete character becomes U+FFFD, and held text is shown unless it is a stop string."""
        rest = self._decoder.flush()
        if self._stop is None:
            return rest
        shown = self._stop.push(rest, armed=armed) if rest else ""
        return shown if self._stop.matched is not None else shown + self._stop.flush()
