"""Closing in time: an output that has to have a structure is led to its end when its tokens run out.

From any state of a grammar, `WaysOut.find` searches for a short continuation that completes the structure: best first
over the states of the parser, with what closes JSON preferred, and with few tokens tried of those that are alike.
`Closing` keeps such a continuation, the way out, for one output. As long as that fits into the tokens that are left,
the model is free. A token after which none would fit is not taken; the way out is, from there on, token by token.

So nothing is forced before it has to be, and an output that could be closed once ends in time. What is left to luck
is a structure for which no way out is found, or that needs more tokens than there are: it ends as it would have.

Searches are bounded by counts, so that the same seed gives the same output on any machine, and by CPU time only where a
structure makes each step of them slow.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count
from typing import TYPE_CHECKING

import numpy as np

from befit.backends.base import I32, U32

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

STATES = 4000
"""Looked at in a search that nobody waits for."""

_STATES = 500  # in one that a step waits for
_EXPANDED = 5  # so many states that are looked at for each that is followed
_SECONDS = 0.1  # of CPU, for each 500
_LONGEST = 1024  # tokens of a way out
_JOINTS = 4  # tokens of the last way out that may have become superfluous
_FREE = 40  # single bytes of text that may follow, from which on anything may
_SAMPLES = b"ae0A9-.@_/: "  # of what may be in a string
_ALWAYS = 64  # spare tokens, up to which every token is looked at
_MOST_SPARE = 1024
_GROWTH = 8  # tokens by which the way out may grow for each that is not looked at


class WaysOut:
    """Short completions of structures for the vocabulary of one model. Any thread.

    tokens: the bytes of each token, none for those that are no text.
    """

    def __init__(self, tree: LLTokenizer, tokens: Sequence[bytes]) -> None:
        self._tree = tree
        single: dict[bytes, int] = {}
        quotes: list[int] = []
        ends: list[int] = []
        others: list[int] = []
        words: dict[int, int] = {}
        for token, text in enumerate(tokens):
            if len(text) == 1:
                single.setdefault(text, token)
            elif not text or len(text) > 16:
                continue
            elif text in (b"true", b"false", b"null", b"[]", b"{}", b'{"', b'["', b'""'):
                others.append(token)
            elif set(text) <= set(b"}]"):
                ends.append(token)
            elif text.startswith(b'"') and set(text[1:]) <= set(b'}],:"') and text.count(b'"') <= 2:
                quotes.append(token)
            elif text.isalpha() and text.isascii() and text.islower():
                words.setdefault(len(text), token)
        for text in (b"}", b"]"):
            ends += [single[text]] if text in single else []
        quotes += [single[b'"']] if b'"' in single else []
        self._bytes = tokens
        self._text = _Group(single.get(bytes([byte])) for byte in range(0x20, 0x7F) if byte != 0x5C)
        self._samples = _Group([*(single.get(bytes([byte])) for byte in _SAMPLES), *words.values()])
        self._quote = _Group(single.get(text) for text in (b'"',))
        self._after_quote = _Group(single.get(text) for text in (b"}", b"]", b",", b":"))
        self._ends, self._quotes = _Group(ends), _Group(quotes)
        self._quotes_and_ends = _Group(token for token in quotes if set(tokens[token]) <= set(b'"}]'))
        digits = [single.pop(digit) for digit in map(bytes, zip(b"9876543201")) if digit in single]
        self._any = _Group([*reversed(single.values()), *others, *digits])

    def find(self, matcher: LLMatcher, known: Sequence[int] = (), most: int = _STATES) -> list[int] | None:
        """Tokens that complete the structure from where the matcher is; None if no such are found.

        known: the way out from an earlier state, which most often still leads out, if only behind what was begun.
        """
        order = count(0, -1)  # of equals, the latest first: straight on
        start = _State(matcher.deep_copy(), [], 0, 0)
        heap = [(0, next(order), start)]
        seen: set[tuple[int, int]] = set()
        expanded, end = 0, time.thread_time() + _SECONDS * most / _STATES
        for _ in range(most):
            if not heap or expanded * _EXPANDED >= most or time.thread_time() > end:
                break
            state = heappop(heap)[2]
            if state.matcher.is_accepting():
                return state.path
            joined = _join(state, known)
            if joined is not None:
                return joined
            words = np.frombuffer(state.matcher.compute_bitmask(), np.uint32)
            key = (hash(words.tobytes()), state.size)
            if state.matcher.is_error() or key in seen or len(state.path) > _LONGEST:
                continue
            seen.add(key)
            expanded += 1
            for tokens, inside in self._moves(state.matcher, words):
                after = state.step(tokens, b"".join(self._bytes[token] for token in tokens), inside)
                if after is not None:
                    heappush(heap, (after.cost, next(order), after))
        return None

    def _moves(self, matcher: LLMatcher, words: U32) -> Iterator[tuple[list[int], bool]]:
        """What is worth trying from here: tokens, and whether they are the inside of a string. The best come last."""
        forced = matcher.compute_ff_bytes()
        if forced:
            yield self._tree.tokenize_bytes(forced), False
            return
        free = len(self._text.allowed(words)) > _FREE
        ends = [] if free else self._ends.allowed(words)
        behind = None if ends else self._behind_quote(matcher, words)
        if ends:
            choices = ends
        elif behind is not None:
            choices = (self._quotes_and_ends if self._ends.allowed(behind) else self._quotes).allowed(words)
        elif free:
            choices = self._before_quote(matcher, words) or self._samples.allowed(words)
        else:
            choices = self._any.allowed(words)
        inside = free and behind is None
        for token in choices:
            yield [token], inside

    def _behind_quote(self, matcher: LLMatcher, words: U32) -> U32 | None:
        """The mask behind a quotation mark, if that would end a string."""
        for quote in self._quote.allowed(words):
            after = matcher.deep_copy()
            if after.consume_token(quote):
                behind = np.frombuffer(after.compute_bitmask(), np.uint32)
                closes = after.is_accepting() or bool(self._after_quote.allowed(behind))
                if closes and not after.is_error() and len(self._text.allowed(behind)) <= _FREE:
                    return behind
        return None

    def _before_quote(self, matcher: LLMatcher, words: U32) -> list[int]:
        """A character behind which the string may end."""
        for token in self._text.allowed(words):
            if any(matcher.validate_tokens([token, quote]) == 2 for quote in self._quote.tokens):
                return [token]
        return []


class Closing:
    """The way out of one output. One thread at a time.

    way: tokens that complete the structure. begun: they are what comes next.
    """

    __slots__ = ("_always", "_look_at", "_ways", "begun", "way")

    def __init__(self, ways: WaysOut, way: list[int] | None, characters: int) -> None:
        self._ways = ways
        self.way = way or []
        self.begun = False
        self._always = min(_ALWAYS + characters // 4, _MOST_SPARE)
        """Spare tokens up to which every token is looked at: one may begin what is as long as the schema."""
        self._look_at: int | None = None  # tokens left, from which on the next look is due; None: now

    @property
    def done(self) -> bool:
        """Whether the structure is complete, and the output should end."""
        return self.begun and not self.way

    def advance(self) -> bool:
        """The next token of the way out has been written; whether that was the last."""
        self.way = self.way[1:]
        return self.done

    def restart(self) -> None:
        """The structure begins anew."""
        self.way, self._look_at = [], None

    def allows(self, matcher: LLMatcher, token: int, left: int) -> bool:
        """Whether the structure can be completed in `left` more tokens behind this one. If not, closing has begun.

        True as well where that cannot be told.
        """
        if self._look_at is not None and left > self._look_at:
            return True
        after = matcher.deep_copy()
        if not after.consume_token(token) or after.is_stopped():
            return True
        way = self._ways.find(after, self.way)
        if way is not None and len(way) <= left:
            self.way = way
            spare = left - len(way)
            self._look_at = left - 1 - max(0, spare - self._always) // _GROWTH
            return True
        way = self._ways.find(matcher, self.way)
        if way is not None and len(way) <= left + 1:
            self.way, self.begun = way, True
            return False
        self.way, self._look_at = [], left // 2  # the model may do by itself what is long
        return True


class _Group:
    """Tokens, and which of them a mask allows."""

    def __init__(self, tokens: Iterable[int | None]) -> None:
        self.tokens = [token for token in tokens if token is not None]
        ids: I32 = np.array(self.tokens, np.int32)
        self._word = ids >> 5
        self._bit: U32 = np.left_shift(np.uint32(1), (ids & 31).astype(np.uint32))

    def allowed(self, words: U32) -> list[int]:
        allowed = (words[self._word] & self._bit) != 0
        return [self.tokens[at] for at in np.flatnonzero(allowed)]


@dataclass(slots=True)
class _State:
    """Where a path leads, how many bytes it has, and how little is likely to be missing behind it."""

    matcher: LLMatcher
    path: list[int]
    size: int
    cost: int

    def step(self, tokens: list[int], text: bytes, inside: bool) -> _State | None:
        matcher = self.matcher.deep_copy()
        if matcher.try_consume_tokens(tokens) < len(tokens):
            return None
        cost = len(tokens)
        if inside:
            cost -= len(text) // 2
        else:
            cost += 12 * (sum(map(text.count, (b"{", b"["))) - sum(map(text.count, (b"}", b"]"))))
            cost += 8 * (len(text) - len(text.strip()) - text.count(b":")) - 16 * text.count(b",")
        return _State(matcher, self.path + tokens, self.size + len(text), self.cost + cost)


def _join(state: _State, known: Sequence[int]) -> list[int] | None:
    """The path and what is left of a known way out, if that completes the structure."""
    for skipped in range(min(len(known), _JOINTS)):
        rest = list(known[skipped:])
        if state.matcher.validate_tokens(rest[:1]) == 1:
            after = state.matcher.deep_copy()
            if after.try_consume_tokens(rest) == len(rest) and after.is_accepting():
                return state.path + rest
    return None
