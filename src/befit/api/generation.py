"""From prompts to a stream of deltas, for any protocol: admission first, then one merged stream; closing it aborts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from starlette.types import Receive

from befit import heap
from befit.api.guard.caller import ANYBODY, Caller, caller
from befit.api.tracing import traced
from befit.engine.outputs import CompletionOutput, Delta, TokenLogprob
from befit.errors import ContextExceeded, EngineDead, InvalidRequest, RequestFailed, RequestTimeout
from befit.sampling import SamplingParams
from befit.structure import Structure

if TYPE_CHECKING:
    from befit.api.guard.limits import Account
    from befit.engine.async_engine import AsyncEngine
    from befit.engine.pooling import Pooling
    from befit.tokenizer.base import Tokenizer

T = TypeVar("T")

_INLINE_CHARS = 4096
"""Shorter texts are worked on in the event loop (about a millisecond), longer ones in a worker thread."""

_HUGE_CHARS = 1 << 20
"""Texts from here on are worked on one after the other, because each takes a hundred times its size in memory."""

_HUGE = ThreadPoolExecutor(1, "huge-texts")


@dataclass(slots=True)
class Job:
    """One prompt and how to continue it."""

    prompt_ids: list[int]
    params: SamplingParams


async def off_loop(size: int, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """function(*args, **kwargs) on a text of `size` characters: at once if that is short, else in a worker thread."""
    if size <= _INLINE_CHARS:
        return function(*args, **kwargs)
    if size < _HUGE_CHARS:
        return await asyncio.to_thread(function, *args, **kwargs)
    return await asyncio.get_running_loop().run_in_executor(_HUGE, partial(_trimmed, function, *args, **kwargs))


def _trimmed(function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    try:
        return function(*args, **kwargs)
    finally:
        heap.trim()


async def encode(tokenizer: Tokenizer, text: str, *, add_special: bool) -> list[int]:
    """Token ids of a prompt; spellings of control tokens become those tokens."""
    return await off_loop(len(text), tokenizer.encode, text, add_special=add_special)


def room(prompt_ids: list[int], ctx: int, param: str, *, output: int = 1) -> int:
    """Tokens left for output. Raises unless the prompt leaves at least `output`, and unless it has a token."""
    if not prompt_ids:
        raise InvalidRequest(f"{param} has no tokens; send at least one.", param)
    left = ctx - len(prompt_ids)
    if left < output:
        raise ContextExceeded(
            f"{param} is {len(prompt_ids)} tokens; the context is {ctx} tokens, prompt and output together. "
            "Shorten it, or start the server with a larger --ctx.",
            param,
        )
    return left


class Deltas:
    """What the engine adds to the answers, as (position of the prompt in the request, delta), in any order of prompts.

    Iterated once. `aclose` aborts what still runs, whether or not the iteration ever began.
    """

    def __init__(self, sources: list[AsyncGenerator[Delta, None]], asking: Caller = ANYBODY) -> None:
        self._sources = sources
        self._first = [asyncio.ensure_future(anext(source)) for source in sources]
        self._items = _follow(sources[0], self._first[0]) if len(sources) == 1 else _merge(sources, self._first)
        if asking.account is not None:
            self._items = _charged(self._items, asking.account)
        if asking.timeout is not None:
            self._items = _timed(self._items, asking.timeout)

    async def admitted(self) -> None:
        """Return once the engine has taken every request; raises its refusal, and then none of them runs."""
        # The engine refuses a request before its generator waits for anything, so one turn of the loop shows it.
        await asyncio.sleep(0)
        try:
            for task in self._first:
                if task.done():
                    task.result()
        except BaseException:
            await self.aclose()
            raise

    def __aiter__(self) -> AsyncIterator[tuple[int, Delta]]:
        return self._items

    async def aclose(self) -> None:
        """Abort what still runs."""
        await self._items.aclose()
        for task in self._first:
            task.cancel()
        await asyncio.gather(*self._first, return_exceptions=True)
        for source in self._sources:
            await source.aclose()


async def submit(
    engine: AsyncEngine, jobs: list[Job], *, priority: int = 0, cache_salt: str = "", pooling: Pooling | None = None
) -> Deltas:
    """Hand every job to the engine; returns once all are admitted, before their first token. The caller closes it.

    pooling: the jobs are for embeddings.
    """
    asking = caller.get()
    options: dict[str, Any] = {"priority": priority, "cache_salt": asking.salt(cache_salt)}
    if pooling is not None:
        options["pooling"] = pooling
    for structure in {job.params.structure for job in jobs if job.params.structure is not None}:
        await prepare(engine, structure)
    sources = [
        traced(
            engine.generate(job.prompt_ids, job.params, **options),
            engine.model.name,
            len(job.prompt_ids),
            job.params,
            embeds=pooling is not None,
        )
        for job in jobs
    ]
    deltas = Deltas(sources, asking)
    await deltas.admitted()
    if asking.account is not None:
        asking.account.charge(sum(len(job.prompt_ids) for job in jobs))
    return deltas


async def prepare(engine: AsyncEngine, structure: Structure) -> None:
    """Compile the structure, apart from the event loop. Raises InvalidRequest or UnsupportedField if it is no good."""
    await asyncio.wrap_future(engine.model.grammars.prepare(structure))


_Items: TypeAlias = AsyncGenerator[tuple[int, Delta], None]


async def _follow(source: AsyncGenerator[Delta, None], first: asyncio.Task[Delta]) -> _Items:
    yield 0, await first
    async for delta in source:
        yield 0, delta


async def _charged(items: _Items, account: Account) -> _Items:
    async with aclosing(items):
        async for position, delta in items:
            account.charge(len(delta.token_ids))
            yield position, delta


async def _timed(items: _Items, seconds: float) -> _Items:
    end = asyncio.get_running_loop().time() + seconds
    async with aclosing(items):
        while True:
            try:
                async with asyncio.timeout_at(end):
                    item = await anext(items)
            except StopAsyncIteration:
                return
            except TimeoutError:
                raise RequestTimeout(
                    f"The answer took longer than the {seconds:g} seconds that the server allows; ask for fewer tokens."
                ) from None
            yield item


async def _merge(sources: list[AsyncGenerator[Delta, None]], first: list[asyncio.Task[Delta]]) -> _Items:
    queue: asyncio.Queue[tuple[int, Delta] | BaseException | None] = asyncio.Queue()

    async def pump(position: int) -> None:
        try:
            queue.put_nowait((position, await first[position]))
            async for delta in sources[position]:
                queue.put_nowait((position, delta))
        except Exception as error:
            queue.put_nowait(error)
        else:
            queue.put_nowait(None)

    pumps = [asyncio.ensure_future(pump(position)) for position in range(len(sources))]
    left = len(pumps)
    try:
        while left:
            item = await queue.get()
            if isinstance(item, BaseException):
                raise item
            if item is None:
                left -= 1
            else:
                yield item
    finally:
        for task in pumps:
            task.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)


def failure(delta: Delta) -> Exception | None:
    """Why a continuation ended without being whole, or None."""
    if delta.finish_reason == "error":
        return delta.error or RequestFailed("The request failed; the server's log says why.")
    if delta.finish_reason == "abort":
        return EngineDead("The server stopped before the answer was finished.")
    return None


@dataclass(slots=True)
class Collected:
    """All continuations of one prompt."""

    outputs: list[CompletionOutput]
    prompt_logprobs: list[TokenLogprob | None] | None = None
    cached_tokens: int = 0


async def collect(deltas: Deltas, jobs: list[Job]) -> list[Collected]:
    """The whole answer to each job. Raises when one of the continuations failed."""
    answers = [Collected([CompletionOutput(index) for index in range(job.params.n)]) for job in jobs]
    texts: list[list[list[str]]] = [[[] for _ in answer.outputs] for answer in answers]
    async for position, delta in deltas:
        error = failure(delta)
        if error is not None:
            raise error
        answer = answers[position]
        output = answer.outputs[delta.index]
        texts[position][delta.index].append(delta.text)
        output.token_ids += delta.token_ids
        if delta.logprobs is not None:
            output.logprobs = output.logprobs or []
            output.logprobs += delta.logprobs
        if delta.prompt_logprobs is not None:
            answer.prompt_logprobs = delta.prompt_logprobs
        answer.cached_tokens = max(answer.cached_tokens, delta.cached_tokens)
        if delta.finish_reason is not None:
            output.finish_reason = delta.finish_reason
            output.stop_reason = delta.stop_reason
    for answer, pieces in zip(answers, texts, strict=True):
        for output, text in zip(answer.outputs, pieces, strict=True):
            output.text = "".join(text)
    return answers


class ClientGoneError(Exception):
    """The client closed the connection before its answer was complete; there is nobody to answer."""


async def while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled as soon as the client goes away (then raises ClientGoneError)."""
    running = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnect(receive))
    try:
        await asyncio.wait({running, gone}, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            return running.result()
        raise ClientGoneError
    finally:
        for task in (running, gone):
            task.cancel()
        await asyncio.gather(running, gone, return_exceptions=True)


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
