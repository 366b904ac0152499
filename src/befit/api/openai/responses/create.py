"""`POST /v1/responses`: answered whole, as events, or in the background."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import AsyncGenerator
from contextlib import aclosing

from starlette.requests import Request
from starlette.responses import Response

from befit.api.answers import json_response
from befit.api.body import read_body
from befit.api.generation import Deltas, Job, off_loop, room, submit, while_connected
from befit.api.models.fleet import Fleet
from befit.api.openai.chat import prompt_ids
from befit.api.openai.fields import ignored_header
from befit.api.openai.ids import new_id
from befit.api.openai.logprobs import LogprobWriter
from befit.api.openai.request_body import parse
from befit.api.openai.responses.answer import SUCCESS, Answer
from befit.api.openai.responses.items import Item, read_items, size, to_messages
from befit.api.openai.responses.request import ResponseRequest, own_names
from befit.api.openai.responses.store import EventLog, Kept, ResponseStore
from befit.api.openai.responses.tools import response_tool_use
from befit.api.openai.types import ChatRequest
from befit.api.reply import Reply
from befit.api.service import Service
from befit.api.stream import Detached, EventStream
from befit.api.tools.request import ToolUse
from befit.errors import InvalidRequest, ResponseNotFound


async def create_response(fleet: Fleet, store: ResponseStore, http: Request) -> Response:
    """Validate, admit, then answer in the way that was asked for."""
    request = parse(ResponseRequest, await read_body(http))
    service = await fleet.service(request.model)
    model = service.model_name(request.model)
    items, context = conversation(store, request)
    name = new_id("resp_", request.request_id)
    if name in store:
        raise InvalidRequest(f"request_id: there is a response {name!r} already; choose another.", "request_id")
    use = response_tool_use(request.tools, request.tool_choice, request.parallel_tool_calls)
    chat, ids = await off_loop(size(context), render, service, request, context, use)
    reply = Reply.to(service, ids, use)
    with own_names():
        params = await reply.confined(chat.sampling(room(ids, service.ctx, "input"), service.recommended))
    spell = LogprobWriter(service.tokenizer, skip_special=request.skip_special_tokens is not False)
    answer = Answer(request, name, model, params, len(ids), spell, reply.parser())
    with own_names():
        deltas = await submit(
            service.engine,
            [Job(ids, params)],
            priority=request.priority or 0,
            cache_salt=request.cache_salt or "",
        )
    kept = Kept(answer.body, items, context)
    headers = ignored_header(request.ignored)
    if request.background:
        return await _in_background(store, kept, answer, deltas, headers)
    if request.stream:
        return EventStream(_events(store, kept, answer, deltas), deltas, headers)
    async with aclosing(deltas):
        await while_connected(http.receive, _run(store, kept, answer, deltas))
    if answer.error is not None:
        raise answer.error
    return json_response(answer.body, headers=headers)


async def count_input_tokens(fleet: Fleet, store: ResponseStore, http: Request) -> Response:
    """`POST /v1/responses/input_tokens`: what a request's prompt would be, in tokens."""
    request = parse(ResponseRequest, await read_body(http))
    service = await fleet.service(request.model)
    _, context = conversation(store, request)
    use = response_tool_use(request.tools, request.tool_choice, request.parallel_tool_calls)
    _, ids = await off_loop(size(context), render, service, request, context, use)
    return json_response({"object": "response.input_tokens", "input_tokens": len(ids)})


def conversation(store: ResponseStore, request: ResponseRequest) -> tuple[list[Item], list[Item]]:
    """(the request's own items, all items of the conversation)."""
    items = read_items(request.input, store.finder())
    if request.previous_response_id is None:
        return items, items
    try:
        previous = store.get(request.previous_response_id)
    except ResponseNotFound as error:
        raise InvalidRequest(error.message, "previous_response_id") from None
    if previous.running:
        raise InvalidRequest(
            f"Response {previous.id!r} is still running; wait until it has ended.", "previous_response_id"
        )
    if previous.body["status"] == "failed":
        raise InvalidRequest(f"Response {previous.id!r} failed; go on from the one before it.", "previous_response_id")
    return items, [*previous.context, *items]


def render(
    service: Service, request: ResponseRequest, context: list[Item], use: ToolUse | None
) -> tuple[ChatRequest, list[int]]:
    """The chat request and its token ids; with truncation "auto", the oldest messages are left out until it fits."""
    messages = to_messages(context)

    def without(count: int) -> tuple[ChatRequest, list[int]]:
        chat = request.chat(messages[count:])
        with own_names():
            return chat, prompt_ids(service, chat, use)

    found = without(0)
    if request.truncation != "auto" or _fits(service, *found):
        return found
    fewest = bisect_left(range(len(messages) - 1), True, key=lambda count: _fits(service, *without(count)))
    while fewest < len(messages) - 1 and messages[fewest]["role"] == "tool":  # its call is left out
        fewest += 1
    return without(fewest)


def _fits(service: Service, chat: ChatRequest, ids: list[int]) -> bool:
    return len(ids) + chat.output_wanted <= service.ctx


def _keep(store: ResponseStore, kept: Kept) -> None:
    """The response has ended: what it said belongs to the conversation from now on."""
    if kept.body["store"]:
        kept.context = [*kept.context, *kept.body["output"]]
        store.put(kept)


async def _run(store: ResponseStore, kept: Kept, answer: Answer, deltas: Deltas) -> None:
    async for _ in answer.events(deltas):
        pass
    if answer.error is None:
        _keep(store, kept)


async def _events(store: ResponseStore, kept: Kept, answer: Answer, deltas: Deltas) -> AsyncGenerator[bytes, None]:
    async with aclosing(answer.events(deltas)) as events:
        async for kind, event in events:
            if kind in SUCCESS:
                _keep(store, kept)  # before the client reads the last event, and may refer to it
            yield event


async def _in_background(
    store: ResponseStore, kept: Kept, answer: Answer, deltas: Deltas, headers: dict[str, str]
) -> Response:
    """Start it, and answer at once; with `stream`, with its events, which go on without the client."""
    log = kept.log = EventLog() if answer.request.stream else None
    store.put(kept)

    async def work() -> None:
        try:
            async with aclosing(deltas), aclosing(answer.events(deltas)) as events:
                async for _, event in events:
                    if log is not None:
                        log.add(event)
        except asyncio.CancelledError:
            for _, event in answer.cancel():
                if log is not None:
                    log.add(event)
        finally:
            if log is not None:
                log.end()
            if kept.id in store:
                _keep(store, kept)

    first = dict(answer.body)
    kept.task = asyncio.create_task(work())
    await asyncio.sleep(0)  # lets it begin: a task that is cancelled before that would never close `deltas`
    if log is not None:
        return EventStream(log.read(), Detached(), headers)
    return json_response(first, headers=headers)
