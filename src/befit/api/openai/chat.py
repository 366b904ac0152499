"""`POST /v1/chat/completions`: messages through the model's chat template, answered as the assistant."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from befit.api.answers import json_response
from befit.api.body import read_body
from befit.api.generation import (
    Collected,
    Deltas,
    Job,
    collect,
    failure,
    off_loop,
    room,
    submit,
    while_connected,
)
from befit.api.message import Message, MessageParser, Part, Reasoning, parts
from befit.api.models.fleet import Fleet
from befit.api.openai.chunks import ChunkWriter, error_event
from befit.api.openai.fields import ignored_header
from befit.api.openai.ids import new_id
from befit.api.openai.logprobs import LogprobWriter
from befit.api.openai.messages import known_roles
from befit.api.openai.types import ChatRequest, parse
from befit.api.openai.usage import Usage
from befit.api.reply import Reply
from befit.api.service import Service
from befit.api.stream import DONE, EventStream, split_tool_marker
from befit.api.tools.request import ToolUse, tool_use
from befit.api.truncate import truncate
from befit.engine.outputs import CompletionOutput, Delta
from befit.errors import InvalidRequest

_RESERVED_KWARGS = {"messages", "tools", "add_generation_prompt", "continue_final_message", "add_special"}


async def create_chat_completion(fleet: Fleet, http: Request) -> Response:
    """Validate, admit, then stream or answer whole."""
    body = await read_body(http)
    request = parse(ChatRequest, body)
    service = await fleet.service(request.model)
    model = service.model_name(request.model)
    use = tool_use(request.tools, request.tool_choice, request.parallel_tool_calls)
    ids = await off_loop(len(body), prompt_ids, service, request, use)
    job = Job(ids, request.sampling(room(ids, service.ctx, "messages"), service.recommended))
    reply = Reply.to(service, ids, use)
    job.params = await reply.confined(job.params)
    answer = Chat(service, request, model, job, new_id("chatcmpl-", request.request_id), reply)
    deltas = await submit(service.engine, [job], priority=request.priority or 0, cache_salt=request.cache_salt or "")
    headers = ignored_header(request.ignored)
    if request.stream:
        return EventStream(answer.events(deltas), deltas, headers)
    async with aclosing(deltas):
        [collected] = await while_connected(http.receive, collect(deltas, [job]))
    return json_response(answer.whole(collected), headers=headers)


def prompt_ids(service: Service, request: ChatRequest, use: ToolUse | None = None) -> list[int]:
    """The conversation as token ids, by the chat template; cut only if the request asks for that."""
    kwargs = request.chat_template_kwargs or {}
    reserved = _RESERVED_KWARGS.intersection(kwargs)
    if reserved:
        raise InvalidRequest(
            f"chat_template_kwargs holds {', '.join(sorted(reserved))}; send that as a field of the request.",
            "chat_template_kwargs",
        )
    messages, tools = service.tools.messages(known_roles(request.messages), use)
    if tools is not None:
        kwargs = {**kwargs, "tools": tools}
    ids = service.template.encode(
        messages,
        add_generation_prompt=not request.continue_final_message and request.add_generation_prompt is not False,
        continue_final_message=bool(request.continue_final_message),
        add_special=bool(request.add_special_tokens),
        **kwargs,
    )
    return truncate(
        ids, request.truncate_prompt_tokens, request.truncation_side, ctx=service.ctx, output=request.output_wanted
    )


@dataclass(slots=True)
class Chat:
    """The answer to one request, whole or as events."""

    service: Service
    request: ChatRequest
    model: str
    job: Job
    id: str
    reply: Reply
    created: int = field(default_factory=lambda: int(time.time()))
    usage: Usage = field(init=False)
    spell: LogprobWriter = field(init=False)

    def __post_init__(self) -> None:
        self.usage = Usage(len(self.job.prompt_ids))
        self.spell = LogprobWriter(
            self.service.tokenizer,
            skip_special=self.request.skip_special_tokens is not False,
            as_ids=bool(self.request.return_tokens_as_token_ids),
        )

    def _envelope(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.service.fingerprint,
        }

    def whole(self, answer: Collected) -> dict[str, Any]:
        """The body of a non-streamed answer."""
        self.usage.cached = answer.cached_tokens
        self.usage.completion = sum(len(output.token_ids) for output in answer.outputs)
        body = {
            **self._envelope("chat.completion"),
            "choices": [self._choice(output) for output in answer.outputs],
            "usage": self.usage.render(),
        }
        if self.request.prompt_logprobs is not None and answer.prompt_logprobs is not None:
            body["prompt_logprobs"] = self.spell.prompt(answer.prompt_logprobs)
        if self.request.return_token_ids:
            body["prompt_token_ids"] = self.job.prompt_ids
        return body

    def _choice(self, output: CompletionOutput) -> dict[str, Any]:
        parser = self.reply.parser()
        message = parser.whole(output.text) if parser is not None else Message(output.text)
        choice: dict[str, Any] = {
            "index": output.index,
            "message": self._message(message),
            "logprobs": None,
            "finish_reason": _reason(output.finish_reason, bool(message.calls)),
            "stop_reason": output.stop_reason,
        }
        if self.request.logprobs:
            choice["logprobs"] = self.spell.chat(output.logprobs or [], self.request.top_logprobs or 0)
        if self.request.return_token_ids:
            choice["token_ids"] = output.token_ids
        return choice

    def _message(self, message: Message) -> dict[str, Any]:
        content = message.text if message.text or not (message.calls or message.reasoning) else None
        rendered: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
        if message.reasoning and self.request.include_reasoning is not False:
            rendered |= {"reasoning": message.reasoning, "reasoning_content": message.reasoning}
        if message.calls:
            rendered["tool_calls"] = [
                {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for call in message.calls
            ]
        return rendered

    async def events(self, deltas: Deltas) -> AsyncGenerator[bytes, None]:
        """The server-sent events of a streamed answer: the role, the text, the finish reason, the usage if asked."""
        request = self.request
        writer = ChunkWriter(
            self._envelope("chat.completion.chunk"),
            text_key='"delta":{"content":',
            text_end="}",
            usage_null=request.include_usage,
        )
        parsers = [self.reply.parser() for _ in range(self.job.params.n)]
        plain = not request.logprobs and not request.return_token_ids and not request.usage_in_every_chunk
        # The roles wait for the first text and go out with it, so that a first event means a first token.
        start = self._roles(writer)
        try:
            async for _, delta in deltas:
                self.usage.completion += len(delta.token_ids)
                self.usage.cached += delta.cached_tokens
                parser = parsers[delta.index]
                if plain and delta.finish_reason is None and parser is None:
                    if delta.text:
                        yield start + self._text(writer, delta.index, delta.text)
                        start = b""
                    continue
                error = failure(delta)
                if error is not None:
                    raise error
                if parser is None:
                    yield start + self._chunk(writer, delta)
                    start = b""
                elif parsed := self._parsed(writer, parser, delta, plain):
                    yield start + parsed
                    start = b""
            if request.include_usage:
                yield writer.usage(self.usage.render()).encode("ascii")
            yield DONE
        except Exception as error:
            yield error_event(error)

    def _roles(self, writer: ChunkWriter) -> bytes:
        extra = {"prompt_token_ids": self.job.prompt_ids} if self.request.return_token_ids else None
        start = {"role": "assistant", "content": ""}
        return "".join(writer.delta(index, start, extra) for index in range(self.job.params.n)).encode("ascii")

    @staticmethod
    def _text(writer: ChunkWriter, index: int, text: str) -> bytes:
        head, tail = split_tool_marker(text)
        events = writer.text(index, head)
        if tail:
            events += writer.text(index, tail)
        return events.encode("ascii")

    def _chunk(self, writer: ChunkWriter, delta: Delta) -> bytes:
        head, tail = split_tool_marker(delta.text)
        before = writer.text(delta.index, head) if tail else ""
        last = writer.full(delta.index, tail or head, finish_reason=delta.finish_reason, **self._rest(delta))
        return (before + last).encode("ascii")

    def _rest(self, delta: Delta) -> dict[str, Any]:
        """What a chunk has besides text and finish reason."""
        extra: dict[str, Any] = {}
        if self.request.return_token_ids:
            extra["token_ids"] = delta.token_ids
        if delta.finish_reason is not None:
            extra["stop_reason"] = delta.stop_reason
        logprobs = None
        if self.request.logprobs:
            logprobs = self.spell.chat(delta.logprobs or [], self.request.top_logprobs or 0)
        usage = self.usage.render() if self.request.usage_in_every_chunk else None
        return {"logprobs": logprobs, "choice_extra": extra, "usage": usage}

    def _parsed(self, writer: ChunkWriter, parser: MessageParser, delta: Delta, plain: bool) -> bytes:
        """A chunk for each part that the delta completes, then one with the rest; nothing while all is held back."""
        told = parts(parser, delta.text, last=delta.finish_reason is not None)
        events = b"".join(self._part(writer, delta.index, part) for part in told)
        if plain and delta.finish_reason is None:
            return events
        reason = _reason(delta.finish_reason, parser.calls > 0)
        return events + writer.part(delta.index, {}, finish_reason=reason, **self._rest(delta)).encode("ascii")

    def _part(self, writer: ChunkWriter, index: int, part: Part) -> bytes:
        if isinstance(part, str):
            return self._text(writer, index, part)
        if isinstance(part, Reasoning):
            if self.request.include_reasoning is False:
                return b""
            return writer.part(index, {"reasoning": part.text, "reasoning_content": part.text}).encode("ascii")
        call: dict[str, Any] = {"index": part.index, "function": {"arguments": part.arguments}}
        if part.name is not None:
            function = {"name": part.name, "arguments": part.arguments}
            call = {"index": part.index, "id": part.id, "type": "function", "function": function}
        return writer.part(index, {"tool_calls": [call]}).encode("ascii")


def _reason(reason: str | None, calls: bool) -> str | None:
    """OpenAI's finish reason: `tool_calls` where the model ended with calls by itself."""
    return "tool_calls" if calls and reason == "stop" else reason
