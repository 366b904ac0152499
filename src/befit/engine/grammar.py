"""Grammars: which tokens may follow, for outputs that must have a structure.

llguidance (https://github.com/guidance-ai/llguidance) compiles JSON schemas, regular expressions and grammars into a
lexer and an Earley parser over bytes, and walks the vocabulary's prefix tree with them to find the tokens that may come
next. It is imported, and its tree of the vocabulary built, for the first request that wants a structure.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from befit.backends.base import U32
from befit.engine.closing import STATES, Closing, WaysOut
from befit.errors import InvalidRequest, UnsupportedField
from befit.structure import Structure
from befit.tokenizer.base import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLParserLimits, LLTokenizer

log = logging.getLogger("befit.engine")

_KEPT = 64  # compiled structures
_USES = 64  # of one of them: its copies share a lexer whose automaton grows with what is generated
_LIMITS = {
    "max_items_in_row": 1000,
    "step_lexer_fuel": 150_000,  # about 10 ms
    "step_max_items": 20_000,
    "max_lexer_states": 100_000,  # about 25 MB
    "verbose_errors": False,
}
_COMPILE_SECONDS = 2.0
_MASK_SECONDS = 0.1  # others in the batch wait for it
_PATTERN_BYTES = 1280  # of free output that may match `begun`: more than the longest name of a tool takes
_GBNF_CHARACTERS = 1 << 15  # the translator takes time in proportion to the square
_UNSUPPORTED = ("Unimplemented", "not supported", "only supported", "Unknown format")  # in llguidance's messages
_MESSAGE = 300  # characters of llguidance's message that a client gets


class Grammars:
    """Compiles structures for the vocabulary of one model. Cheap until the first of them; safe in any thread.

    vocab_size: of the model's logits, which may be more than the tokeniser's.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._tree: LLTokenizer | None = None
        self._ways: WaysOut | None = None
        self._compiling = threading.Lock()
        self._lock = threading.Lock()  # of what follows, and never held for long: the event loop takes it
        self._compiled: OrderedDict[tuple[str, str], _Compiled] = OrderedDict()
        self._pool: ThreadPoolExecutor | None = None

    def prepare(self, structure: Structure) -> Future[None]:
        """Compile a structure on a thread of its own, so that `start` is quick. The result raises as `start` does.

        One thread: structures that take long to compile wait for each other, and nobody else for them.
        """
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="befit-grammar")
        return self._pool.submit(self._prepare, structure)

    def start(self, structure: Structure, *, close: bool = True) -> Grammar:
        """The state of a new output. InvalidRequest or UnsupportedField for a structure that cannot be used.

        close: whether the output is led to its end when its tokens run out (see `befit.engine.closing`).
        """
        compiled = self._found(structure)
        if compiled is None:
            compiled = self._prepared(structure)
        tree = self._vocabulary()
        assert self._ways is not None
        closes = close and compiled.way is not None
        closing = Closing(self._ways, compiled.way, len(structure.text)) if closes else None
        return Grammar(compiled.matcher.deep_copy(), tree, structure, self._tokenizer, closing)

    def _found(self, structure: Structure) -> _Compiled | None:
        with self._lock:
            found = self._compiled.get(_key(structure))
            if found is not None:
                found.uses += 1
                if found.uses >= _USES:
                    del self._compiled[_key(structure)]
            return found

    def _prepare(self, structure: Structure) -> None:
        with self._lock:
            if _key(structure) in self._compiled:
                self._compiled.move_to_end(_key(structure))
                return
        self._prepared(structure)

    def _prepared(self, structure: Structure) -> _Compiled:
        with self._compiling:
            compiled = self._compile(structure)
        with self._lock:
            self._compiled[_key(structure)] = compiled
            if len(self._compiled) > _KEPT:
                self._compiled.popitem(last=False)
        return compiled

    def _compile(self, structure: Structure) -> _Compiled:
        from llguidance import LLMatcher, LLParserLimits

        tree = self._vocabulary()
        begin = time.thread_time()
        limits: LLParserLimits = LLParserLimits(**_LIMITS)  # type: ignore[arg-type]
        matcher = LLMatcher(tree, _source(structure), log_level=0, limits=limits)
        # The first mask shows most of what is only found out when a grammar is used.
        if not matcher.is_error():
            matcher.compute_bitmask()
        if matcher.is_error():
            raise _refusal(structure, matcher.get_error())
        _check_time(structure, time.thread_time() - begin, _COMPILE_SECONDS)
        assert self._ways is not None
        return _Compiled(matcher, self._ways.find(matcher, most=STATES))

    def _vocabulary(self) -> LLTokenizer:
        if self._tree is None:
            from llguidance import LLTokenizer, TokenizerWrapper

            if not self._tokenizer.eos_ids:
                raise UnsupportedField("The model has no end-of-sequence token, so no structure can end its output.")
            words = _Words(self._tokenizer, self._vocab_size)
            wrapper: Any = TokenizerWrapper(words)
            self._tree = LLTokenizer(wrapper, eos_token=sorted(self._tokenizer.eos_ids))
            control = set(words.special_token_ids)
            self._ways = WaysOut(self._tree, [b"" if at in control else text for at, text in enumerate(words.tokens)])
        return self._tree


@dataclass(slots=True)
class _Compiled:
    """A structure at its beginning, the shortest way found from there to its end, and how often it was used."""

    matcher: LLMatcher
    way: list[int] | None
    uses: int = 0


class _Words:
    """A tokeniser as llguidance wants it: all tokens' bytes, none for those that pad the vocabulary, and which of them
    are control tokens."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        ids = range(tokenizer.vocab_size)
        self.eos_token_id = min(tokenizer.eos_ids)
        self.bos_token_id = tokenizer.bos_id
        self.tokens = [tokenizer.token_bytes(token, skip_special=False) for token in ids]
        self.tokens += [b""] * (vocab_size - len(self.tokens))
        self.special_token_ids = [token for token in ids if tokenizer.is_special(token)]
        self._tokenizer = tokenizer

    def __call__(self, text: bytes) -> list[int]:
        return self._tokenizer.encode(text.decode("utf-8"), add_special=False, parse_special=False)


class Grammar:
    """Where one output is in its structure. One thread at a time."""

    __slots__ = (
        "_begun",
        "_bytes",
        "_closing",
        "_free",
        "_looking",
        "_marker",
        "_matcher",
        "_opening",
        "_structure",
        "_tail",
        "_tree",
        "error",
    )

    def __init__(
        self,
        matcher: LLMatcher,
        tree: LLTokenizer,
        structure: Structure,
        tokenizer: Tokenizer,
        closing: Closing | None = None,
    ) -> None:
        self._matcher = matcher
        self._tree = tree
        self._structure = structure
        self._bytes = tokenizer.token_bytes
        self._marker = structure.after.encode()
        self._opening = tokenizer.token_id(structure.opening) if structure.opening else None
        self._begun = re.compile(structure.begun.encode()) if structure.begun else None
        self._free = structure.waits and self._opening is None
        self._tail = b""  # the end of the free text, in which the marker may have begun; all of it while `_looking`
        self._looking = self._begun is not None
        self._closing = closing
        self.error: Exception | None = None

    @property
    def active(self) -> bool:
        """Whether the next token is confined."""
        return not self._free

    @property
    def closing(self) -> bool:
        """Whether what comes next is the shortest way to the end, as there are hardly more tokens left than that."""
        return self._closing is not None and self._closing.begun

    @property
    def closed(self) -> bool:
        """Whether it is `closing` and there already."""
        return self._closing is not None and self._closing.done

    @property
    def complete(self) -> bool:
        """Whether the output has the structure, if it ends here because its tokens have run out."""
        return self._closing is not None and not self._free and self._opening is None and self._matcher.is_accepting()

    def allows(self, token: int, left: int) -> bool:
        """Whether the token may come now if only `left` may follow it. If not, the output is `closing`."""
        if self._closing is None or self._free or self.closing or token == self._opening:
            return True
        return self._closing.allows(self._matcher, token, left)

    def push(self, token: int) -> bool:
        """One more token of the output; True if that completes it. InvalidRequest when a limit was reached."""
        if self._free:
            self._look_for_marker(token)
            return False
        opening, self._opening = self._opening, None
        if token == opening:
            self._free = True
            return False
        matcher = self._matcher
        if not matcher.consume_token(token) or matcher.is_error():
            self.error = self.error or _refusal(self._structure, matcher.get_error())
            raise self.error
        if self._closing is not None and self._closing.begun:
            return self._closing.advance()
        if not matcher.is_stopped():
            return False
        self._free = self._structure.again
        self._looking = self._begun is not None
        return not self._free

    def admit(self, drafts: list[int]) -> int:
        """How many of the drafts may be verified in one step. A draft that completes `after` may not: what follows it
        is confined, and not yet known to be."""
        if self.closing:
            return 0
        if not self._free:
            return self._matcher.validate_tokens(drafts)
        tail = self._tail
        for at, token in enumerate(drafts):
            tail += self._bytes(token, skip_special=False)
            if self._beyond(tail) is not None:
                return at
        return len(drafts)

    def fill(self, masks: U32, drafts: list[int]) -> None:
        """Write the masks of the next token and of what follows each draft: [1 + len(drafts), words], zeroed before.

        When a limit is reached, `error` is set and the masks are left zero: nothing is allowed. InvalidRequest when
        it took so long that others should not have to wait for it again.
        """
        if self._closing is not None and self._closing.begun:
            [following] = self._closing.way[:1]
            masks[0, following // 32] = np.uint32(1 << following % 32)
            return
        matcher, done, begin = self._matcher, 0, time.thread_time()
        address, width = masks.ctypes.data, masks.strides[0]
        for at in range(len(masks)):
            if at:
                if not matcher.consume_token(drafts[at - 1]):
                    break
                done += 1
                if matcher.is_stopped() and self._structure.again:
                    masks[at] = 0xFFFFFFFF
                    break
            matcher.unsafe_compute_mask_ptr(address + at * width, width)
            if matcher.is_error():
                break
        if self._opening is not None:
            masks[0, self._opening // 32] |= np.uint32(1 << self._opening % 32)
        if matcher.is_error():
            self.error = _refusal(self._structure, matcher.get_error())
            masks[:] = 0
        elif done:
            matcher.rollback(done)
        _check_time(self._structure, time.thread_time() - begin, _MASK_SECONDS * len(masks))

    def _look_for_marker(self, token: int) -> None:
        text = self._tail + self._bytes(token, skip_special=False)
        rest = self._beyond(text)
        if rest is None:
            self._looking = self._looking and len(text) < _PATTERN_BYTES
            kept = len(self._marker) - 1
            self._tail = text if self._looking else text[-kept:] if kept > 0 else b""
            return
        self._tail = b""
        self._matcher.reset()
        if self._closing is not None:
            self._closing.restart()
        # The token may reach beyond the marker. If what it has there does not begin the structure, the output goes on
        # freely: it cannot be taken back.
        beyond = self._tree.tokenize_bytes(rest) if rest else []
        self._free = self._matcher.try_consume_tokens(beyond) < len(beyond) or self._matcher.is_stopped()

    def _beyond(self, text: bytes) -> bytes | None:
        """What the structure begins with, if it begins in this free text."""
        if self._marker:
            _, found, rest = text.partition(self._marker)
            if found:
                return b"\1" + rest if self._begun is not None else rest
        match = self._begun.match(text) if self._begun is not None and self._looking else None
        return None if match is None else b"\2" + match[1] + b"\n" + text[match.end() :]


def _check_time(structure: Structure, seconds: float, most: float) -> None:
    """The parser's own limits bound what it does, though not well how long that takes."""
    if seconds > most:
        raise InvalidRequest(
            f"{structure.param} takes too long: {seconds:.2f} s of computing, {most:g} s are allowed. Simplify it.",
            structure.param,
        )


def _key(structure: Structure) -> tuple[str, str]:
    return structure.kind, structure.text


def _source(structure: Structure) -> str:
    """The structure as llguidance's grammar. Raises InvalidRequest for GBNF that cannot be translated."""
    from llguidance import LLMatcher

    if structure.kind == "json":
        return LLMatcher.grammar_from_json_schema(structure.text)
    if structure.kind == "regex":
        return LLMatcher.grammar_from_regex(structure.text)
    from llguidance.gbnf_to_lark import gbnf_to_lark, is_lark_syntax

    if is_lark_syntax(structure.text):
        return LLMatcher.grammar_from_lark(structure.text)
    if len(structure.text) > _GBNF_CHARACTERS:
        raise InvalidRequest(
            f"{structure.param} is GBNF of {len(structure.text)} characters; at most {_GBNF_CHARACTERS} can be.",
            structure.param,
        )
    try:
        return LLMatcher.grammar_from_lark(gbnf_to_lark(structure.text))
    except Exception as error:  # the translator raises whatever its regular expressions stumble over
        raise _refusal(structure, f"the GBNF cannot be read: {error}") from error


def _refusal(structure: Structure, message: str) -> InvalidRequest:
    """llguidance's message as an error of the request."""
    message = " ".join(message.split("\n<non-verbose/>")[0].split())
    if message == "NoExtensionBias":
        message = "it leads to where nothing is allowed"
    message = message if len(message) <= _MESSAGE else message[:_MESSAGE] + "…"
    kind = UnsupportedField if any(sign in message for sign in _UNSUPPORTED) else InvalidRequest
    return kind(f"{structure.param} cannot be used: {message or 'it reached a limit of the parser'}.", structure.param)
