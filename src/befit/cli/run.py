"""`befit run`: one answer, or a chat in the terminal."""

from __future__ import annotations

import os
import select
import stat
import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import click

from befit.cli.options import chat_template_option, engine_options, sampling_options, to_engine_options
from befit.store.catalogue import DEFAULT_MODEL

if TYPE_CHECKING:
    from befit.cli.session import Message, Session
    from befit.sampling import SamplingParams

_PATIENCE_SECONDS = 3.0


@click.command("run")
@click.argument("words", nargs=-1, metavar="[MODEL] [PROMPT]")
@click.option("-m", "--model", help=f"The model, when PROMPT stands alone.  [default: {DEFAULT_MODEL}]")
@click.option("--system", metavar="TEXT", help="Instructions that stand before the conversation.")
@sampling_options
@chat_template_option
@engine_options
@click.option("--chat", "force_chat", is_flag=True, help="Chat even when standard input is no terminal.")
@click.option("--stats", is_flag=True, help="Print token counts and speed to standard error.")
def command(
    words: tuple[str, ...],
    model: str | None,
    system: str | None,
    chat_template: str | None,
    force_chat: bool,
    stats: bool,
    **values: Any,
) -> None:
    """Answer PROMPT and exit, or chat when there is none.

    With two arguments the first is MODEL. One argument alone is MODEL if it is the path of a .gguf file or of a model's
    folder, the name of a model that is stored or that befit can fetch, or has the form NAME:TAG; otherwise it is
    PROMPT. With --model it is always PROMPT.

    What is piped in is added to the prompt after an empty line, or is the prompt:

    \b
        cat parser.py | befit run "What does this do?"
    """
    ref, prompt = split_words(words, model)
    _sampling(values)  # wrong options are told before a model is loaded
    chat = force_chat or (prompt is None and sys.stdin.isatty())
    if not chat:
        prompt = _join(prompt, _piped())
        if not prompt.strip():
            raise click.UsageError("no prompt: give one as an argument or on standard input, or chat with --chat.")

    from befit.cli.session import open_session
    from befit.sampling import recommended

    with open_session(ref, to_engine_options(values), chat_template) as session:
        params = _sampling(values, recommended(session.engine.model.metadata))
        if chat_template is None and "tokenizer.chat_template" not in session.engine.model.metadata:
            click.echo(f"befit: chat template: {session.template.source}", err=True)
        if chat:
            _chat(session, params, system, prompt, stats)
        else:
            _answer(session, params, system, prompt or "", stats)


def split_words(words: tuple[str, ...], model: str | None) -> tuple[str, str | None]:
    """Model and prompt from the arguments and --model; see the command's help for the rule."""
    most = 1 if model else 2
    if len(words) > most:
        raise click.UsageError(f"{len(words)} arguments, at most {most} expected: put the prompt in quotes.")
    if model:
        return model, words[0] if words else None
    if len(words) == 2:
        return words[0], words[1]
    if words and not _means_model(words[0]):
        return DEFAULT_MODEL, words[0]
    return (words[0] if words else DEFAULT_MODEL), None


def _means_model(word: str) -> bool:
    from befit import store
    from befit.store import names

    if store.is_reference(word) and " " not in word:
        return True
    if store.is_model_folder(word):
        return True
    if word.lower().endswith(".gguf") and (" " not in word or os.path.isfile(os.path.expanduser(word))):
        return True
    name = names.parse(word)
    return name is not None and (name.tag is not None or store.is_known(word))


_DEFAULTS = {"temperature": 0.2, "top_p": 0.9}


def _sampling(values: dict[str, Any], recommended: Mapping[str, Any] = MappingProxyType({})) -> SamplingParams:
    from befit.errors import InvalidRequest
    from befit.sampling import SamplingParams

    try:
        given = {name: values[name] for name in SamplingParams.__slots__ if values.get(name) is not None}
        return SamplingParams(**{**_DEFAULTS, **recommended, **given})
    except InvalidRequest as error:
        raise click.UsageError(error.message) from error


def _piped() -> str:
    """All of standard input when it is a pipe, socket or file; empty for a terminal and for /dev/null."""
    if sys.stdin is None or sys.stdin.isatty():
        return ""
    kind = os.fstat(sys.stdin.fileno()).st_mode
    if not (stat.S_ISFIFO(kind) or stat.S_ISREG(kind) or stat.S_ISSOCK(kind)):
        return ""
    if not select.select([sys.stdin], [], [], _PATIENCE_SECONDS)[0]:
        click.echo("befit: waiting for standard input to end (use < /dev/null if there is none)", err=True)
    data = sys.stdin.buffer.read()
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise click.UsageError(
            f"standard input is no UTF-8 text: byte {error.start:,} of {len(data):,} is 0x{data[error.start]:02x}."
        ) from error


def _join(prompt: str | None, piped: str) -> str:
    parts = [part for part in (prompt, piped) if part and part.strip()]
    return "\n\n".join(parts)


def _answer(session: Session, params: SamplingParams, system: str | None, prompt: str, stats: bool) -> None:
    from befit.cli.chat import emit, finish
    from befit.cli.session import Reply

    messages: list[Message] = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": prompt})
    ids = session.prompt_ids(messages)
    reply = Reply(prompt_tokens=len(ids))
    try:
        session.answer(ids, params, emit, reply)
    except KeyboardInterrupt:
        emit("\n")
        raise
    finish(reply, params, session.ctx, stats=stats)


def _chat(session: Session, params: SamplingParams, system: str | None, first: str | None, stats: bool) -> None:
    from befit.cli.chat import Chat
    from befit.cli.lines import reader

    click.echo(f"{session.engine.model.name}, context {session.ctx:,} tokens. /help lists commands.", err=True)
    chat = Chat(session, params, system, stats=stats)
    read = reader(">>> ")
    pending = [first] if first else []
    chat.run(lambda: pending.pop() if pending else read())
