"""`POST /api/chat`: messages and tools in Ollama's shape."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from befit.api.body import read_body
from befit.api.generation import off_loop, room
from befit.api.message import MessageParser, Reasoning, ToolCall, parts
from befit.api.models.fleet import Fleet
from befit.api.ollama.answer import Answer, logprobs
from befit.api.ollama.respond import fitting, only_load, respond
from befit.api.ollama.types import ChatRequest
from befit.api.openai.chat import prompt_ids
from befit.api.openai.request_body import build, parse
from befit.api.openai.types import ChatRequest as OpenAIChat
from befit.api.reply import Reply
from befit.api.service import Service
from befit.api.tools.request import tool_use
from befit.engine.outputs import Delta
from befit.errors import InvalidRequest, UnsupportedField


async def chat(fleet: Fleet, http: Request) -> Response:
    """Validate, admit, then stream or answer whole."""
    began = time.monotonic()
    body = await read_body(http)
    request = parse(ChatRequest, body)
    if not request.messages:
        return await only_load(fleet, request, {"message": {"role": "assistant", "content": ""}})
    service = await request.served(fleet)
    model = service.model_name(request.asked)
    fields: dict[str, Any] = {
        "messages": [_message(at, message) for at, message in enumerate(request.messages)],
        "tools": request.tools or None,
        "chat_template_kwargs": request.template_kwargs,
    }
    if request.messages[-1].get("role") == "assistant":
        fields["continue_final_message"] = True
    rendered = build(OpenAIChat, fields)
    use = tool_use(rendered.tools, None, None)
    ids = fitting(await off_loop(len(body), prompt_ids, service, rendered, use), service.ctx, request.truncate)
    reply = Reply.to(service, ids, use)
    params = await reply.confined(request.sampling(room(ids, service.ctx, "messages"), request.structure(), service))
    answer = Answer(model, ids, _Message(service, request, reply.parser()), began)
    return await respond(service, http, request, answer, params)


def _message(at: int, message: Mapping[str, Any]) -> dict[str, Any]:
    """A message as OpenAI has it. Calls have no ids in Ollama: results follow them in their order."""
    if message.get("images"):
        raise UnsupportedField(f"messages[{at}].images: the model reads text only; leave them out.", "messages")
    converted = {name: value for name, value in message.items() if name in ("role", "content", "tool_call_id")}
    if message.get("thinking"):
        converted["reasoning_content"] = message["thinking"]
    if message.get("tool_name"):
        converted["name"] = message["tool_name"]
    if message.get("tool_calls"):
        converted["tool_calls"] = _calls(at, message["tool_calls"])
    return converted


def _calls(at: int, calls: Any) -> list[dict[str, Any]]:
    converted = []
    for number, call in enumerate(calls if isinstance(calls, Sequence) else [None]):
        function = call.get("function") if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise InvalidRequest(f"messages[{at}].tool_calls[{number}].function has no name.", "messages")
        arguments = function.get("arguments") or {}
        text = arguments if isinstance(arguments, str) else json.dumps(arguments)
        name = {"name": function["name"], "arguments": text}
        converted.append({"id": call.get("id") or f"call_{at}_{number}", "type": "function", "function": name})
    return converted


@dataclass(slots=True)
class _Message:
    """`message` with text, thoughts and calls. A call is told when it is whole: its arguments are an object."""

    service: Service
    request: ChatRequest
    parser: MessageParser | None
    _text: list[str] = field(default_factory=list)
    _thinking: list[str] = field(default_factory=list)
    _calls: list[dict[str, Any]] = field(default_factory=list)
    _open: ToolCall | None = None
    _logprobs: list[dict[str, Any]] = field(default_factory=list)

    def push(self, delta: Delta) -> list[dict[str, Any]]:
        """See `Shape`."""
        lines: list[dict[str, Any]] = []
        for part in parts(self.parser, delta.text, last=delta.finish_reason is not None):
            if isinstance(part, str):
                lines += [*self._close(), self._line(content=part)]
                self._text.append(part)
            elif isinstance(part, Reasoning):
                lines.append(self._line(thinking=part.text))
                self._thinking.append(part.text)
            elif part.name is not None:
                lines += self._close()
                self._open = ToolCall(part.id or "", part.name, part.arguments)
            elif self._open is not None:
                self._open.arguments += part.arguments
        if delta.finish_reason is not None:
            lines += self._close()
        if self.request.logprobs:
            listed = logprobs(delta.logprobs, self.service.tokenizer, self.request.top_logprobs or 0)
            self._logprobs += listed
            if lines:
                lines[-1]["logprobs"] = listed
        return lines

    def _close(self) -> list[dict[str, Any]]:
        """The line of the call that has become whole."""
        call, self._open = self._open, None
        if call is None:
            return []
        try:
            arguments = json.loads(call.arguments)
        except ValueError:  # the output was cut within it: there is no call
            return []
        rendered = {"function": {"name": call.name, "arguments": arguments}}
        self._calls.append(rendered)
        return [self._line(tool_calls=[rendered])]

    @staticmethod
    def _line(**members: Any) -> dict[str, Any]:
        return {"message": {"role": "assistant", "content": "", **members}}

    def whole(self) -> dict[str, Any]:
        """See `Shape`."""
        members: dict[str, Any] = {"content": "".join(self._text)}
        if self._thinking:
            members["thinking"] = "".join(self._thinking)
        if self._calls:
            members["tool_calls"] = self._calls
        body = self._line(**members)
        if self.request.logprobs:
            body["logprobs"] = self._logprobs
        return body

    def last(self) -> dict[str, Any]:
        """See `Shape`."""
        return self._line()
