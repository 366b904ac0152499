"""Reasoning apart from the answer: models that think first write their thoughts between two markers.

Which markers those are is told by the vocabulary, where both are tokens: `<think>` and `</think>` (Qwen3, QwQ,
DeepSeek-R1 and what is distilled from it, SmolLM3) or `[THINK]` and `[/THINK]` (Magistral). Text between the same
spellings in another model's answer is just text.
"""

from __future__ import annotations

from dataclasses import dataclass

from befit.api.tools.pieces import held_back
from befit.tokenizer.base import Tokenizer

_MARKERS = (("<think>", "</think>"), ("[THINK]", "[/THINK]"))


@dataclass(frozen=True, slots=True)
class ReasoningFormat:
    """The markers around the thoughts, and the ids of those that are control tokens."""

    opening: str
    closing: str
    shown_tokens: tuple[int, ...]

    def opened_by(self, tail: str) -> bool:
        """Whether a prompt that ends with `tail` has opened the thoughts, so that the output begins within them."""
        return tail.rstrip().endswith(self.opening)


def detect_reasoning(tokenizer: Tokenizer) -> ReasoningFormat | None:
    """The model's format, if it has one."""
    for opening, closing in _MARKERS:
        ids = [tokenizer.token_id(opening), tokenizer.token_id(closing)]
        if None not in ids:
            shown = tuple(token for token in ids if token is not None and tokenizer.is_special(token))
            return ReasoningFormat(opening, closing, shown)
    return None


class ReasoningSplitter:
    """Splits one message as it comes. Thoughts are at the beginning or nowhere.

    opened: the prompt has written the opening marker. Whitespace around the markers belongs to neither side.
    """

    def __init__(self, form: ReasoningFormat, *, opened: bool) -> None:
        self._form = form
        self._stage = "thoughts" if opened else "start"
        self._held = ""
        self._trim = True  # whitespace at the beginning of thoughts and answer

    def push(self, text: str) -> tuple[str, str]:
        """(thoughts, answer) that more text tells."""
        if self._stage == "answer":
            return "", self._answer(text)
        self._held += text
        if self._stage == "start":
            rest = self._held.lstrip()
            if not rest or (len(rest) < len(self._form.opening) and self._form.opening.startswith(rest)):
                return "", ""
            if not rest.startswith(self._form.opening):
                self._stage, self._trim = "answer", False
                held, self._held = self._held, ""
                return "", held
            self._stage, self._held = "thoughts", rest[len(self._form.opening) :]
        if self._trim:
            self._held = self._held.lstrip()
            self._trim = not self._held
        thoughts, found, after = self._held.partition(self._form.closing)
        if found:
            self._stage, self._held, self._trim = "answer", "", True
            return thoughts.rstrip(), self._answer(after)
        shown = thoughts[: len(thoughts) - held_back(thoughts, self._form.closing)].rstrip()
        self._held = thoughts[len(shown) :]
        return shown, ""

    def finish(self) -> tuple[str, str]:
        """The message is over: (thoughts, answer) that were held back."""
        held, self._held = self._held, ""
        return ("", held) if self._stage == "start" else (held.rstrip(), "")

    def _answer(self, text: str) -> str:
        if self._trim:
            text = text.lstrip()
            self._trim = not text
        return text
