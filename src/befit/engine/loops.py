"""Degenerate repetition: telling an output that has fallen into a loop from text that repeats itself for a reason.

A looping model writes the same tokens over and over, with a period of one token up to some hundred. `LoopGuard` looks
at an output every `CHECK_EVERY` tokens: the nearest earlier occurrences of its last tokens are candidates for the
period, and a comparison of two slices tells for how many tokens each has held. That costs less than a microsecond a
token, however long the output is.

How long a period must hold depends on what is repeated. The limits stand well clear of what 73 million tokens of
real source text hold (Python's standard library and some hundred packages, C headers; see docs/loops.md):

- words (prose, code) hardly ever repeat exactly: 128 tokens, more with longer periods, three copies at least;
- separators, blank lines and pictures of punctuation: 192 tokens;
- data is repetitive by nature. Numbers and constants in one line: 320 tokens; in rows: 640, or 1536 with periods of
  more than 32 tokens, so that arrays of zeros and tables pass.

Counters (`1. Eve`, `2. Eve`, …) repeat in all but their numbers, so the same is done with every number read as one
symbol. Tables of numbers have no limit here, since real ones go on for tens of thousands of tokens: the numbers must
count in equal steps or stand among words, and that for some 300 copies.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator
from itertools import pairwise

from befit.sampling import SamplingParams
from befit.tokenizer.base import Tokenizer

CHECK_EVERY = 16
MAX_PERIOD = 1024
_CANDIDATES = 8
_SEEN = 64
"""Words are told from data by a text of so many tokens or more, so that a word cut off at its start matters little."""
_NUMBER = 2**32 - 1
_LONGEST_NUMBER = 18
_SIZE = 4  # bytes of a symbol in the histories, which are searched as bytes

_CONSTANTS = frozenset(
    ("none", "true", "false", "null", "nil", "nullptr", "nan", "inf", "infinity", "undefined", "void")
)
_WORD = re.compile(r"(?<![^\W_])[^\W\d_]{3,}(?![^\W_])")
_ESCAPE = re.compile(r"\\[uUx][0-9a-fA-F]+|\\N\{[^}]*\}")
_SPACE = re.compile(r"\s+")
_SOLID = re.compile(r"[^\W_]")
_WORDY = 0.34
"""Part of a text's characters, blanks apart, that are in words, from which on it counts as words and not as data."""


def wanted(params: SamplingParams, setting: str) -> bool:
    """Whether to guard a request. `setting` is the server's: "auto", "on" or "off".

    The request's own wish comes first. Where it has none, "auto" guards editors and requests without a limit.
    """
    if params.loop_guard is not None:
        return params.loop_guard
    if params.ignore_eos:  # output of a given length is asked for, as benchmarks do
        return False
    return setting == "on" or (setting == "auto" and (params.editor or params.max_tokens is None))


class LoopGuard:
    """Watches the tokens of one output."""

    __slots__ = ("_exact", "_folded", "_pending", "_starts", "_tokenizer")

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._pending: list[int] = []
        self._exact = bytearray()
        self._folded = bytearray()  # each number, of however many tokens, is the symbol _NUMBER
        self._starts = array("I")  # for each symbol of _folded, the position of its first token

    def push(self, token: int) -> bool:
        """Take the next token; whether the output is in a loop (said at every `CHECK_EVERY`th token only)."""
        self._pending.append(token)
        if len(self._pending) < CHECK_EVERY:
            return False
        self._take()
        return self._repeats() or self._counts()

    def _take(self) -> None:
        position = len(self._exact) // _SIZE
        in_number = self._folded[-_SIZE:] == b"\xff" * _SIZE
        folded = array("I")
        for at, token in enumerate(self._pending, position):
            data = self._tokenizer.token_bytes(token)
            digits = data.strip().isdigit()
            if not (in_number and data.isdigit()):
                folded.append(_NUMBER if digits else token)
                self._starts.append(at)
            in_number = digits
        self._exact += array("I", self._pending).tobytes()
        self._folded += folded.tobytes()
        self._pending.clear()

    def _repeats(self) -> bool:
        for period in _periods(self._exact):
            if _holds(self._exact, period, _least(period)):
                copies = 1 + _SEEN // period
                text = self._text(len(self._exact) // _SIZE - period * copies)
                if _holds(self._exact, period, _limit(text, period)):
                    return True
        return False

    def _counts(self) -> bool:
        for period in _periods(self._folded):
            limit = _counting_limit(period)
            if _holds(self._folded, period, limit) and (
                _is_wordy(self._text(self._starts[-period])) or self._in_steps(period, limit // period)
            ):
                return True
        return False

    def _text(self, start: int) -> str:
        return self._tokenizer.decode(array("I", bytes(self._exact[start * _SIZE :])).tolist())

    def _in_steps(self, period: int, copies: int) -> bool:
        """Whether each number of the cycle has grown by the same step from copy to copy (0 is a step)."""
        symbols = array("I", bytes(self._folded[-_SIZE * period :]))
        for slot, symbol in enumerate(symbols, -period):
            if symbol == _NUMBER:
                # The newest number may not be whole yet, so the comparison begins one copy back.
                values = (self._number(slot - copy * period) for copy in range(1, copies + 1))
                steps = (later - earlier for later, earlier in pairwise(values))
                first = next(steps)
                if any(step != first for step in steps):  # the first that differs ends it: real tables cost little
                    return False
        return True

    def _number(self, index: int) -> int:
        start = self._starts[index]
        end = min(self._starts[index + 1], start + _LONGEST_NUMBER)  # no counter comes so far
        return int(self._tokenizer.decode(array("I", bytes(self._exact[start * _SIZE : end * _SIZE])).tolist()))


def _periods(history: bytearray) -> Iterator[int]:
    """Distances, the shortest first, at which the last symbols of a history occurred before."""
    width = CHECK_EVERY * _SIZE
    tail = bytes(history[-width:])
    lowest = max(0, len(history) - width - MAX_PERIOD * _SIZE)
    end = len(history) - 1
    found = 0
    while found < _CANDIDATES and (at := history.rfind(tail, lowest, end)) >= 0:
        end = at + width - 1
        distance = len(history) - width - at
        if distance % _SIZE == 0:  # else bytes of neighbouring symbols match by chance
            found += 1
            yield distance // _SIZE


def _holds(history: bytearray, period: int, count: int) -> bool:
    """Whether each of the last `count` symbols equals the one a period before it."""
    shift, width = period * _SIZE, count * _SIZE
    if len(history) < shift + width:
        return False
    return history[-width:] == history[-width - shift : -shift]


def _least(period: int) -> int:
    """The limit for words, which is the lowest: repeated tokens, the first copy apart."""
    return 128 if period <= 16 else 160 if period <= 80 else 2 * period


def _limit(text: str, period: int) -> int:
    if _is_wordy(text):
        return _least(period)
    if _SOLID.search(text) is None:
        return max(192, 2 * period)
    if "\n" not in text:
        return max(320, 2 * period)
    return 640 if period <= 32 else max(1536, 3 * period)


def _counting_limit(period: int) -> int:
    """Three hundred copies: tables that programs wrote into source files have 256."""
    return max(1536, 300 * min(period, 16))


def _is_wordy(text: str) -> bool:
    text = _ESCAPE.sub("\\\\", text)
    solid = len(_SPACE.sub("", text))
    words = [word.lower() for word in _WORD.findall(text)]
    return sum(len(word) for word in words if word not in _CONSTANTS and len(set(word)) > 1) > _WORDY * solid
