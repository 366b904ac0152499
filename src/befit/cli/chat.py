"""A conversation in the terminal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from befit.cli.session import Reply, Session
from befit.engine.outputs import LOOP_STOP_REASON
from befit.errors import BefitError, ContextExceeded, EngineDead

if TYPE_CHECKING:
    from befit.cli.lines import Reader
    from befit.cli.session import Message
    from befit.sampling import SamplingParams

HELP = '''\
/clear   forget the conversation so far
/bye     leave (so does Ctrl-D)
/help    show this
Enter sends. Alt-Enter, or a backslash at the end of a line, starts a new line; """ opens a block of lines and the
next """ closes it. Ctrl-C stops a reply.'''


class Chat:
    """The conversation so far and what the user may do with it."""

    def __init__(self, session: Session, params: SamplingParams, system: str | None, *, stats: bool = False) -> None:
        self._session = session
        self._params = params
        self._start: list[Message] = [{"role": "system", "content": system}] if system else []
        self._messages = list(self._start)
        self._stats = stats

    def run(self, read: Reader) -> None:
        """Read messages and answer them until the user leaves."""
        while (text := read()) is not None:
            line = text.strip()
            if line == "/bye":
                return
            if line == "/clear":
                self._messages = list(self._start)
                _say("The conversation starts anew.")
            elif line in ("/help", "/?"):
                _say(HELP)
            elif line.startswith("/") and line[1:].isalpha():
                _say(f"There is no command {line}; /help lists them.")
            elif line:
                self._turn(text)

    def _turn(self, text: str) -> None:
        """Answer one message. A message that gets no answer is taken out of the conversation again."""
        self._messages.append({"role": "user", "content": text})
        reply = Reply()
        try:
            ids = self._session.prompt_ids(self._messages)
            reply.prompt_tokens = len(ids)
            self._session.answer(ids, self._params, emit, reply)
        except KeyboardInterrupt:
            _say("\n(stopped)" if reply.text else "(stopped; the message is not part of the conversation)")
        except EngineDead:
            raise
        except ContextExceeded as error:
            _say(f"{error.message}. This message was not sent. /clear starts a new conversation.")
        except BefitError as error:
            _say(f"{error.message} (this message is not part of the conversation)")
            reply.text = ""
        else:
            finish(reply, self._params, self._session.ctx, stats=self._stats)
        if reply.text:
            self._messages.append({"role": "assistant", "content": reply.text})
        else:
            self._messages.pop()


def emit(text: str) -> None:
    """Print a piece of an answer at once."""
    sys.stdout.write(text)
    sys.stdout.flush()


def finish(reply: Reply, params: SamplingParams, ctx: int, *, stats: bool) -> None:
    """End the answer's last line, and say so when it was cut, and the numbers when they are wanted."""
    if not reply.text.endswith("\n"):
        emit("\n")
    if reply.finish_reason == "length":
        full = reply.prompt_tokens + reply.tokens
        if params.max_tokens is not None and reply.tokens >= params.max_tokens:
            _say(f"(cut at --max-tokens {params.max_tokens})")
        else:
            _say(f"(cut: the context holds {ctx:,} tokens and the conversation now has {full:,}; see --ctx)")
    elif reply.stop_reason == LOOP_STOP_REASON:
        _say("(ended: the answer began to repeat itself; --loop-guard off lets it)")
    if stats:
        _say(reply.stats())


def _say(text: str) -> None:
    click.echo(text, err=True)
