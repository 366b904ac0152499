"""Prompt lookup: the next tokens are guessed to be those that followed the last time that the text was the same.

Rewritten code, quoted text and boilerplate repeat what the prompt or the output already said (Saxena, "Prompt Lookup
Decoding", 2023; Yang et al., arXiv 2304.04487). The occurrence is found as LZ77 compressors find theirs: a table of the
latest position of each hash of three tokens, and a chain from each position to the one before it with the same hash
(deflate, RFC 1951, section 4). From then on a cursor moves along with the text as long as it repeats, at a comparison a
token. Where a text that repeated for a while differs, it was likely edited: the cursor first skips the one token, as if
it was replaced, then looks for its place again among the next few.

How likely a draft is right is learned per request, and without drafting: the cursor predicts every token, and the
outcome is counted by how long the text has been repeating. So drafts begin when they pay, stop when they do not, and
begin again when the text repeats again.
"""

from __future__ import annotations

from array import array

from befit.engine.speculation.chance import Chance

_GRAM = 3
_CHAIN = 16  # occurrences that are compared, latest first
_LONG = 32  # tokens of a match that are looked at
_SURE = 8  # a match of so many tokens elsewhere is better than a place found again after an edit
_TRUST = 4  # so many repeated tokens, less half of them for each that differed, are worth a look for that place
_WINDOW = 8  # tokens after an edit's start among which the text may go on
_HOPELESS = 0.05  # drafts less likely than this are not proposed
# Chances to begin with: of the first and second token after an edit, then by trust: up to 3, 7, 15, 31 tokens, more.
_PRIOR = (0.3, 0.5, 0.5, 0.65, 0.8, 0.9, 0.95)


class PromptLookup:
    """The index of one sequence. `tokens` is its live list: `catch_up` takes in what was appended to it.

    Takes 8 to 12 bytes a token; `most` is how many tokens the list may ever have.
    """

    def __init__(self, tokens: list[int], most: int) -> None:
        self._tokens = tokens
        self._mask = (1 << max(8, (most - 1).bit_length())) - 1
        self._latest = array("i", [-1]) * (self._mask + 1)
        self._before = array("i")  # of position p: the occurrence before it of the gram that ends at p
        self._cursor = -1  # the position whose token is predicted to come next; -1: none
        self._match = 0  # tokens that repeated since the last one that did not
        self._trust = 0
        self._edit = 0  # where the latest edit began
        self._chances = [Chance(prior) for prior in _PRIOR]
        for position in range(len(tokens)):
            self._add(position)
        self._set(*self._earlier(len(tokens)))

    def catch_up(self) -> None:
        """Take in the tokens appended since, counting how the cursor predicted them."""
        tokens = self._tokens
        for position in range(len(self._before), len(tokens)):
            cursor = self._cursor
            hit = cursor >= 0 and tokens[cursor] == tokens[position]
            if cursor >= 0:
                self._chances[_kind(self._match, self._trust)].count(hit)
            self._add(position)
            if hit:
                self._cursor += 1
                self._match += 1
                self._trust = min(self._trust + 1, _LONG)
            else:
                self._find(position + 1)

    def propose(self, most: int) -> tuple[list[int], list[float]]:
        """Up to `most` drafts, and the chances that they are right up to and with each."""
        at = self._cursor
        if at < 0 or most <= 0:
            return [], []
        drafts = self._tokens[at : at + most]
        if len(drafts) < most:  # the copy reads what it has just written: a text that repeats itself goes on
            drafts = (drafts * (most // len(drafts) + 1))[:most]
        chances: list[float] = []
        chance = 1.0
        for more in range(most):
            chance *= self._chances[_kind(self._match + more, self._trust + more)].value
            if chance < _HOPELESS:
                break
            chances.append(chance)
        return drafts[: len(chances)], chances

    def _add(self, position: int) -> None:
        """Enter the gram that ends at `position`."""
        if position < _GRAM - 1:
            self._before.append(-1)
            return
        slot = hash(tuple(self._tokens[position - _GRAM + 1 : position + 1])) & self._mask
        self._before.append(self._latest[slot])
        self._latest[slot] = position

    def _find(self, end: int) -> None:
        """The newest of `end` tokens was not the cursor's: set it anew."""
        earlier, match = self._earlier(end)
        if self._cursor < 0 or self._trust < _TRUST or match >= _SURE:
            return self._set(earlier, match)
        if self._match > 1:
            self._edit = self._cursor
        self._trust //= 2
        try:
            stop = min(self._edit + _WINDOW, end - 1)
            self._cursor = self._tokens.index(self._tokens[end - 1], self._edit, stop) + 1
            self._match = 1
        except ValueError:
            self._cursor, self._match = self._edit + 1, 0

    def _set(self, cursor: int, match: int) -> None:
        self._cursor = cursor
        self._match = self._trust = match

    def _earlier(self, end: int) -> tuple[int, int]:
        """Behind the longest match of at least a gram, the latest of equals; (-1, 0) when there is none."""
        tokens = self._tokens
        best, longest = -1, _GRAM - 1
        position = self._before[end - 1] if end else -1
        for _ in range(_CHAIN):
            if position < 0:
                break
            if position >= longest and tokens[position - longest] == tokens[end - 1 - longest]:  # may be longer
                length = 0
                most = min(position + 1, _LONG)
                while length < most and tokens[position - length] == tokens[end - 1 - length]:
                    length += 1
                if length > longest:
                    best, longest = position + 1, length
                    if length == _LONG:
                        break
            position = self._before[position]
        return (best, longest) if best >= 0 else (-1, 0)


def _kind(match: int, trust: int) -> int:
    """Which of the chances applies to the next token."""
    return match if match < 2 else min(max(trust.bit_length(), 2), 6)
