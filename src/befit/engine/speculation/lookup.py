"""Prompt lookup: the next tokens are guessed to be those that followed the last time that the text was the same.

Rewritten code, quoted text and boilerplate repeat what the prompt or the output already said (Saxena, "Prompt Lookup
Decoding", 2023; Yang et al., arXiv 2304.04487). The occurrence is found as LZ77 compressors find theirs: a table of the
latest position of each hash of three tokens, and a chain from each position to the one before it with the same hash
(deflate, RFC 1951, section 4). From then on a cursor moves along with the text as long as it repeats, at a comparison a
token. When it stops repeating after a long match, the difference is likely an edit: the cursor first skips one token,
then looks for its place again among the next few.

How likely a draft is right is learned per request, and without drafting: the cursor predicts every token, and the
outcome is counted by the length of the match so far. So drafts begin when they pay, stop when they do not, and begin
again when the text starts to repeat.
"""

from __future__ import annotations

from array import array

from befit.engine.speculation.chance import Chance

_GRAM = 3
_CHAIN = 16  # occurrences that are compared, latest first
_LONG = 32  # length of a match beyond which the longest is not looked for
_SURE = 8  # a match of this length breaks off because of an edit, not because it was chance
_WINDOW = 8  # tokens after a break among which the text may go on
_PATIENCE = 4  # tokens of the text that are tried for that
_PRIOR = (0.3, 0.4, 0.5, 0.65, 0.8, 0.9)  # chance of a token after a match of 0, 1, 2.., 4.., 8.., 16.. tokens
_KINDS = len(_PRIOR)
_HOPELESS = 0.02  # drafts less likely than this are not proposed


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
        self._match = 0  # how many tokens before the cursor are the last ones of the text
        self._broken = -1  # where a long match broke off, and how many tokens ago
        self._since = 0
        self._chances = [Chance(prior) for prior in _PRIOR]
        for position in range(len(tokens)):
            self._add(position)
        self._find(len(tokens))

    def catch_up(self) -> None:
        """Take in the tokens appended since, counting how the cursor predicted them."""
        tokens = self._tokens
        for position in range(len(self._before), len(tokens)):
            cursor = self._cursor
            hit = cursor >= 0 and tokens[cursor] == tokens[position]
            if cursor >= 0:
                self._chances[min(self._match.bit_length(), _KINDS - 1)].count(hit)
            self._add(position)
            self._since += 1
            if hit:
                self._cursor += 1
                self._match += 1
                continue
            if cursor >= 0 and self._match >= _SURE:
                self._broken, self._since = cursor, 0
                again = self._resume(position + 1)
                self._cursor, self._match = (again, 1) if again >= 0 else (cursor + 1, 0)
                continue
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
        for match in range(self._match, self._match + most):
            chance *= self._chances[min(match.bit_length(), _KINDS - 1)].value
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
        """Set the cursor behind the best earlier occurrence of what `end` tokens end with."""
        cursor, match = self._earlier(end)
        if self._broken >= 0 and match < _SURE:
            again = self._resume(end)
            if again >= 0:
                cursor, match = again, 1
        self._cursor, self._match = cursor, match

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

    def _resume(self, end: int) -> int:
        """Behind the newest token's first occurrence shortly after the break; -1 when it is not there."""
        if self._since > _PATIENCE:
            self._broken = -1
            return -1
        stop = min(self._broken + _WINDOW, end - 1)
        try:
            return self._tokens.index(self._tokens[end - 1], self._broken, stop) + 1
        except ValueError:
            return -1
