"""`POST /v1/messages` and `/v1/messages/count_tokens`: a conversation answered, whole or as named events."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from befit.api.answers import dumps, json_response
from befit.api.anthropic.errors import error_event
from befit.api.anthropic.types import CountRequest, MessagesRequest, own_names
from befit.api.body import read_body
from befit.api.generation import Collected, Deltas, Job, collect, failure, off_loop, room, submit, while_connected
from befit.api.message import Message, Part, Reasoning, parts
from befit.api.models.fleet import Fleet
from befit.api.openai.chat import prompt_ids
from befit.api.openai.fields import ignored_header
from befit.api.openai.ids import new_id
from befit.api.openai.request_body import parse
from befit.api.reply import Reply
from befit.api.stream import EventStream
from befit.api.tools.pieces import CallDelta
from befit.api.tools.request import tool_use
from befit.engine.outputs import CLOSED_STOP_REASON, LOOP_STOP_REASON, FinishReason


async def create_message(fleet: Fleet, http: Request) -> Response:
    """Validate, admit, then stream or answer whole."""
    body = await read_body(http)
    request = parse(MessagesRequest, body)
    service = await fleet.service(request.model)
    model = service.model_name(request.model)
    chat = request.chat()
    with own_names():
        use = tool_use(chat.tools, chat.tool_choice, chat.parallel_tool_calls)
        ids = await off_loop(len(body), prompt_ids, service, chat, use)
        left = room(ids, service.ctx, "messages")
        reply = Reply.to(service, ids, use)
        job = Job(ids, await reply.confined(chat.sampling(left, service.recommended)))
        deltas = await submit(service.engine, [job])
    answer = Answer(model, len(ids), reply, full="max_tokens" if request.max_tokens <= left else _CONTEXT_IS_FULL)
    headers = ignored_header([*request.ignored, *request.switches_in_vain(service.template)])
    if request.stream:
        return EventStream(answer.events(deltas), deltas, headers)
    async with aclosing(deltas):
        [collected] = await while_connected(http.receive, collect(deltas, [job]))
    return json_response(answer.whole(collected), headers=headers)


async def count_tokens(fleet: Fleet, http: Request) -> Response:
    """How many tokens a request's prompt has."""
    body = await read_body(http)
    request = parse(CountRequest, body)
    service = await fleet.service(request.model)
    chat = request.chat()
    with own_names():
        use = tool_use(chat.tools, chat.tool_choice, chat.parallel_tool_calls)
        ids = await off_loop(len(body), prompt_ids, service, chat, use)
    return json_response({"input_tokens": len(ids)}, headers=ignored_header(request.ignored))


_CONTEXT_IS_FULL = "model_context_window_exceeded"


@dataclass(slots=True)
class Answer:
    """The answer to one request. full: the reason to stop of an output that has become as long as it may be."""

    model: str
    prompt_tokens: int
    reply: Reply
    full: str
    id: str = field(default_factory=lambda: new_id("msg_"))
    _block: int = -1
    _kind: str = ""
    _cached: int = 0
    _tokens: int = 0

    def whole(self, answer: Collected) -> dict[str, Any]:
        """The body of a non-streamed answer."""
        [output] = answer.outputs
        parser = self.reply.parser()
        message = parser.whole(output.text) if parser is not None else Message(output.text)
        self._cached, self._tokens = answer.cached_tokens, len(output.token_ids)
        stop = self._stop(output.finish_reason, output.stop_reason, bool(message.calls))
        return {**self._envelope(), "content": _blocks(message), **stop, "usage": self._usage()}

    def _envelope(self) -> dict[str, Any]:
        return {"id": self.id, "type": "message", "role": "assistant", "model": self.model}

    def _usage(self) -> dict[str, int]:
        """Tokens read from the cache are not among `input_tokens`, as in Anthropic's counts."""
        return {
            "input_tokens": self.prompt_tokens - self._cached,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": self._cached,
            "output_tokens": self._tokens,
        }

    def _stop(self, reason: FinishReason | None, stop: str | int | None, calls: bool) -> dict[str, Any]:
        if reason == "length":
            return {"stop_reason": self.full, "stop_sequence": None}
        if isinstance(stop, str) and stop not in (LOOP_STOP_REASON, CLOSED_STOP_REASON):
            return {"stop_reason": "stop_sequence", "stop_sequence": stop}
        return {"stop_reason": "tool_use" if calls else "end_turn", "stop_sequence": None}

    async def events(self, deltas: Deltas) -> AsyncGenerator[bytes, None]:
        """message_start, blocks from start to stop, and message_delta and message_stop; or an error."""
        parser = self.reply.parser()
        try:
            started = False
            async for _, delta in deltas:
                error = failure(delta)
                if error is not None:
                    raise error
                self._tokens += len(delta.token_ids)
                self._cached += delta.cached_tokens
                last = delta.finish_reason is not None
                events = self._parts(parts(parser, delta.text, last=last))
                if last:
                    calls = parser is not None and parser.calls > 0
                    stop = self._stop(delta.finish_reason, delta.stop_reason, calls)
                    events += self._close() + _event("message_delta", delta=stop, usage=self._usage())
                    events += _event("message_stop")
                if events and not started:  # with the first text, so that a first event means a first token
                    events = self._start() + events
                    started = True
                if events:
                    yield events
        except Exception as error:
            yield error_event(error)

    def _start(self) -> bytes:
        usage = {**self._usage(), "output_tokens": 0}
        message = {**self._envelope(), "content": [], "stop_reason": None, "stop_sequence": None, "usage": usage}
        return _event("message_start", message=message) + _event("ping")

    def _parts(self, parts: list[Part]) -> bytes:
        """The events of more text, thoughts and calls; a block ends where something else begins."""
        events = b""
        for part in parts:
            if isinstance(part, str):
                events += self._open("text", {"type": "text", "text": ""})
                events += self._delta({"type": "text_delta", "text": part})
            elif isinstance(part, Reasoning):
                events += self._open("thinking", {"type": "thinking", "thinking": "", "signature": ""})
                events += self._delta({"type": "thinking_delta", "thinking": part.text})
            else:
                events += self._call(part)
        return events

    def _call(self, part: CallDelta) -> bytes:
        events = b""
        if part.name is not None:
            block: dict[str, Any] = {"type": "tool_use", "id": part.id, "name": part.name, "input": {}}
            events += self._open(f"call {part.index}", block)
        if part.arguments:
            events += self._delta({"type": "input_json_delta", "partial_json": part.arguments})
        return events

    def _open(self, kind: str, block: dict[str, Any]) -> bytes:
        if kind == self._kind:
            return b""
        events = self._close()
        self._block, self._kind = self._block + 1, kind
        return events + _event("content_block_start", index=self._block, content_block=block)

    def _delta(self, delta: dict[str, Any]) -> bytes:
        return _event("content_block_delta", index=self._block, delta=delta)

    def _close(self) -> bytes:
        if not self._kind:
            return b""
        self._kind = ""
        return _event("content_block_stop", index=self._block)


def _blocks(message: Message) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    if message.reasoning:
        blocks.append({"type": "thinking", "thinking": message.reasoning, "signature": ""})
    if message.text:
        blocks.append({"type": "text", "text": message.text})
    for call in message.calls:
        blocks.append({"type": "tool_use", "id": call.id, "name": call.name, "input": _arguments(call.arguments)})
    return blocks


def _arguments(text: str) -> Any:
    """Arguments as an object; none where the output ended within them, as `stop_reason` then tells."""
    try:
        return json.loads(text)
    except ValueError:
        return {}


def _event(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\ndata: {dumps({'type': kind, **fields})}\n\n".encode("ascii")
