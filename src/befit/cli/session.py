"""A loaded model that answers conversations, for a program without an event loop of its own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

from befit.errors import ContextExceeded

if TYPE_CHECKING:
    from befit.api.chat import ChatTemplate
    from befit.config import EngineOptions
    from befit.engine.async_engine import AsyncEngine
    from befit.sampling import SamplingParams

Message: TypeAlias = dict[str, str]


@dataclass(slots=True)
class Reply:
    """An answer as far as it came. Times are in seconds; `first` is the time to the first token."""

    prompt_tokens: int = 0
    text: str = ""
    tokens: int = 0
    first: float = 0.0
    total: float = 0.0
    finish_reason: str | None = None
    stop_reason: str | int | None = None

    def stats(self) -> str:
        """One line of numbers; the rate is over the tokens after the first."""
        later = self.total - self.first
        rate = f"{(self.tokens - 1) / later:.1f} tokens/s" if self.tokens > 1 and later > 0 else "one token"
        return (
            f"prompt {self.prompt_tokens} tokens, first token after {1000 * self.first:.0f} ms; "
            f"output {self.tokens} tokens in {self.total:.2f} s, {rate}"
        )


class Session:
    """Answers one conversation at a time. `open_session` makes and ends it."""

    def __init__(self, runner: asyncio.Runner, engine: AsyncEngine, template: ChatTemplate) -> None:
        self.engine = engine
        self.template = template
        self.ctx = engine.model.config.ctx
        self._runner = runner

    def prompt_ids(self, messages: list[Message]) -> list[int]:
        """The conversation as the model reads it. Raises `TemplateError`, or `ContextExceeded` when no room is left."""
        ids = self.template.encode(messages)
        if len(ids) >= self.ctx:
            raise ContextExceeded(
                f"the conversation has {len(ids):,} tokens and the context holds {self.ctx:,}, the reply included"
            )
        return ids

    def answer(self, ids: list[int], params: SamplingParams, write: Callable[[str], None], reply: Reply) -> None:
        """Continue the prompt, pass text to `write` as it comes, and fill in `reply`.

        Ctrl-C raises `KeyboardInterrupt` once the engine has let go of the request; `reply` then holds what came.
        """
        self._runner.run(self._answer(ids, params, write, reply))

    async def _answer(self, ids: list[int], params: SamplingParams, write: Callable[[str], None], reply: Reply) -> None:
        start = time.monotonic()
        async with aclosing(self.engine.generate(ids, params)) as deltas:
            async for delta in deltas:
                reply.total = time.monotonic() - start
                if not reply.tokens:
                    reply.first = reply.total
                reply.tokens += len(delta.token_ids)
                reply.text += delta.text
                reply.finish_reason, reply.stop_reason = delta.finish_reason, delta.stop_reason
                if delta.error is not None:
                    raise delta.error
                if delta.text:
                    write(delta.text)


@contextmanager
def open_session(ref: str, options: EngineOptions, template: str | None = None) -> Iterator[Session]:
    """Load a model, fetching it if need be, and run its engine for the length of a `with`."""
    from befit.engine.load import load_model

    model = load_model(ref, replace(options, max_seqs=1), progress=True)
    from befit.api.chat import ChatTemplate
    from befit.engine.async_engine import AsyncEngine

    chosen = ChatTemplate.from_metadata(model.metadata, model.tokenizer, file=template, beside=model.path)
    engine = AsyncEngine(model)
    with asyncio.Runner() as runner:
        runner.run(engine.start())
        try:
            yield Session(runner, engine, chosen)
        finally:
            runner.run(engine.stop())
            model.close()
