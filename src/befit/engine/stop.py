"""Stop strings in text that arrives piece by piece.

The output ends at the first character that completes a stop string; if it completes several, the longest counts. Text
that may still become a stop string is held back, so that nothing shown is ever taken back. How the text was cut into
tokens makes no difference. Matching is Knuth, Morris & Pratt (SIAM J. Comput. 6, 1977): constant time a character, for
however long a stop string a client sends.
"""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Watches one output. `matched` is the stop string that ended it, or None; nothing is pushed after a match."""

    def __init__(self, stops: Sequence[str], *, include: bool = False) -> None:
        self.matched: str | None = None
        self._stops = tuple(dict.fromkeys(stops))
        self._include = include
        self._borders = [_borders(stop) for stop in self._stops]
        self._states = [0] * len(self._stops)
        self._first = frozenset(stop[0] for stop in self._stops)
        self._held = ""

    def push(self, piece: str, *, armed: bool = True) -> str:
        """Take the next piece of text and return what may be shown. Unarmed: a stop string that ends here is text."""
        if not self._held and self._first.isdisjoint(piece):
            return piece
        text = self._held + piece
        states = self._states
        for end, char in enumerate(piece, len(self._held) + 1):
            longest = 0
            for i, stop in enumerate(self._stops):
                state, borders = states[i], self._borders[i]
                while state and stop[state] != char:
                    state = borders[state]
                if stop[state] == char:
                    state += 1
                if state == len(stop):
                    if armed and state > longest:
                        longest, self.matched = state, stop
                    state = borders[state]
                states[i] = state
            if longest:
                self._held = ""
                return text[: end if self._include else end - longest]
        hold = max(states)
        self._held = text[len(text) - hold :]
        return text[: len(text) - hold]

    def flush(self) -> str:
        """The output ended otherwise: what was held back is text after all."""
        held, self._held = self._held, ""
        return held


def _borders(stop: str) -> list[int]:
    """borders[k]: length of the longest proper prefix of stop[:k] that is also its suffix, for k in 0..len(stop)."""
    borders = [0, 0]
    k = 0
    for char in stop[1:]:
        while k and stop[k] != char:
            k = borders[k]
        if stop[k] == char:
            k += 1
        borders.append(k)
    return borders
