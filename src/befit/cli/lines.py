"""What a user types, line by line, into messages of one line or many.

A line that ends in a backslash goes on in the next; three double quotes open a block that the next three close.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TypeAlias

QUOTES = '"""'

Reader: TypeAlias = Callable[[], str | None]
"""Returns the next message, or None at the end of input."""


def is_complete(text: str) -> bool:
    """Whether the message ends here: no block is open and the last line has no backslash at its end."""
    if text.lstrip().startswith(QUOTES):
        return text.count(QUOTES) >= 2
    return not text.endswith("\\")


def unwrap(text: str) -> str:
    """The message without the marks that held it together."""
    body = text.strip()
    if body.startswith(QUOTES):
        inside, _, after = body.removeprefix(QUOTES).partition(QUOTES)
        return (inside + after).strip("\n")
    return text.replace("\\\n", "\n")


def plain_reader(prompt: str) -> Reader:
    """Read messages from standard input when it is no terminal, or from a terminal without line editing."""

    def read() -> str | None:
        text = ""
        while True:
            if sys.stdin.isatty():
                print("... " if text else prompt, end="", file=sys.stderr, flush=True)
            line = sys.stdin.readline()
            text += line.removesuffix("\n")
            if not line:
                return unwrap(text) if text.strip() else None
            if is_complete(text):
                return unwrap(text)
            text += "\n"

    return read


def terminal_reader(prompt: str) -> Reader:
    """Read messages with line editing and this session's history; Alt-Enter starts a line, Ctrl-C drops all."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

    keys = KeyBindings()

    @keys.add("enter")
    def _(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if is_complete(buffer.text):
            buffer.validate_and_handle()
        else:
            buffer.insert_text("\n")

    @keys.add("escape", "enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    session: PromptSession[str] = PromptSession(
        prompt, multiline=True, key_bindings=keys, prompt_continuation=lambda width, *_: "... ".rjust(width)
    )

    def read() -> str | None:
        while True:
            try:
                return unwrap(session.prompt())
            except KeyboardInterrupt:
                print("(/bye or Ctrl-D leaves)", file=sys.stderr)
            except EOFError:
                return None

    return read


def reader(prompt: str) -> Reader:
    """The reader that suits standard input and output."""
    return terminal_reader(prompt) if sys.stdin.isatty() and sys.stdout.isatty() else plain_reader(prompt)
