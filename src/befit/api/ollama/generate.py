"""`POST /api/generate`: a prompt, through the chat template unless `raw`, or a hole to fill in."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from befit.api.body import read_body
from befit.api.fim import require
from befit.api.generation import encode, off_loop, room
from befit.api.message import Message, MessageParser, Reasoning, parts
from befit.api.models.fleet import Fleet
from befit.api.ollama.answer import Answer, logprobs
from befit.api.ollama.respond import fitting, only_load, respond
from befit.api.ollama.types import GenerateRequest
from befit.api.openai.inputs import check_ids
from befit.api.openai.request_body import parse
from befit.api.reply import Reply
from befit.api.service import Service
from befit.engine.outputs import Delta


async def generate(fleet: Fleet, http: Request) -> Response:
    """Validate, admit, then stream or answer whole."""
    began = time.monotonic()
    request = parse(GenerateRequest, await read_body(http))
    if not request.prompt and not request.suffix:
        return await only_load(fleet, request, {"response": ""})
    service = await request.served(fleet)
    model = service.model_name(request.asked)
    ids = fitting(await _prompt(service, request), service.ctx, request.truncate)
    params = request.sampling(room(ids, service.ctx, "prompt"), request.structure(), service)
    reply = Reply.to(service, ids, None)
    plain = bool(request.raw or request.suffix)
    params = require(service.fim, "suffix").ends(params) if request.suffix else await reply.confined(params)
    shape = _Generated(service, request, None if plain else reply.parser())
    answer = Answer(model, ids, shape, began, context=not request.raw and not request.suffix)
    return await respond(service, http, request, answer, params)


async def _prompt(service: Service, request: GenerateRequest) -> list[int]:
    prompt, context = request.prompt or "", request.context or []
    if request.suffix:
        fill = require(service.fim, "suffix").prompt
        limit = service.ctx - 1 if request.truncate else None
        return (await off_loop(len(prompt) + len(request.suffix), fill, prompt, request.suffix, limit=limit)).ids
    if request.raw:
        return await encode(service.tokenizer, prompt, add_special=True)
    check_ids(context, service.tokenizer.vocab_size, "context", "context")
    messages = [{"role": "system", "content": request.system}] if request.system else []
    messages.append({"role": "user", "content": prompt})
    ids: list[int] = await off_loop(
        len(prompt), service.template.encode, messages, add_generation_prompt=True, add_special=False,
        **request.template_kwargs,
    )  # fmt: skip
    return [*context, *ids]


@dataclass(slots=True)
class _Generated:
    """Text under `response`, thoughts under `thinking`."""

    service: Service
    request: GenerateRequest
    parser: MessageParser | None
    _message: Message = field(default_factory=Message)
    _logprobs: list[dict[str, Any]] = field(default_factory=list)

    def push(self, delta: Delta) -> list[dict[str, Any]]:
        """See `Shape`."""
        lines: list[dict[str, Any]] = []
        for part in parts(self.parser, delta.text, last=delta.finish_reason is not None):
            if isinstance(part, Reasoning):
                self._message.reasoning += part.text
                lines.append({"response": "", "thinking": part.text})
            elif isinstance(part, str):
                self._message.text += part
                lines.append({"response": part})
        if self.request.logprobs:
            listed = logprobs(delta.logprobs, self.service.tokenizer, self.request.top_logprobs or 0)
            self._logprobs += listed
            if lines:
                lines[-1]["logprobs"] = listed
        return lines

    def whole(self) -> dict[str, Any]:
        """See `Shape`."""
        body: dict[str, Any] = {"response": self._message.text}
        if self._message.reasoning:
            body["thinking"] = self._message.reasoning
        if self.request.logprobs:
            body["logprobs"] = self._logprobs
        return body

    def last(self) -> dict[str, Any]:
        """See `Shape`."""
        return {"response": ""}
