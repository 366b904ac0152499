"""`POST /infill` and `POST /completion`: llama.cpp's requests, whole or as events, answered in its shape."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from befit.api.answers import dumps, json_response
from befit.api.body import read_body
from befit.api.fim import FimPrompt, require
from befit.api.generation import Deltas, Job, encode, failure, off_loop, room, submit, while_connected
from befit.api.llamacpp.limits import CANDIDATES, Limits, unsure
from befit.api.llamacpp.settings import generation_settings
from befit.api.llamacpp.timings import Timings
from befit.api.llamacpp.types import GenerationRequest, InfillRequest, RawRequest
from befit.api.models.fleet import Fleet
from befit.api.openai.chunks import error_event
from befit.api.openai.fields import ignored_header
from befit.api.openai.request_body import parse
from befit.api.service import Service
from befit.api.stream import EventStream
from befit.engine.outputs import CLOSED_STOP_REASON, LOOP_STOP_REASON, Delta
from befit.sampling import SamplingParams

_RESERVED = 256
"""Tokens that a prompt leaves for an output without a limit, or a quarter of the context if that is less."""


async def create_infill(fleet: Fleet, http: Request) -> Response:
    """Fill in between a prefix and a suffix, which are trimmed where they do not fit."""
    body = await read_body(http)
    request = parse(InfillRequest, body)
    service = await fleet.service(request.model)
    fim = require(service.fim, "input_prefix")
    limit = service.ctx - _reserved(request, service.ctx)
    prompt = await off_loop(
        len(body),
        fim.prompt,
        request.prefix,
        request.input_suffix or "",
        request.files,
        limit=limit,
        **request.names,
    )
    params = fim.ends(request.sampling(service.ctx - len(prompt.ids)))
    return await _respond(service, http, request, prompt, params)


async def create_completion(fleet: Fleet, http: Request) -> Response:
    """Continue a prompt as it is."""
    request = parse(RawRequest, await read_body(http))
    service = await fleet.service(request.model)
    ids = (
        await encode(service.tokenizer, request.prompt, add_special=True)
        if isinstance(request.prompt, str)
        else request.prompt
    )
    params = request.sampling(room(ids, service.ctx, "prompt", output=0 if request.limit == 0 else 1))
    return await _respond(service, http, request, FimPrompt(ids), params)


def _reserved(request: GenerationRequest, ctx: int) -> int:
    if request.limit is None:
        return min(_RESERVED, ctx // 4)
    return min(max(1, request.limit), ctx // 2)


async def _respond(
    service: Service, http: Request, request: GenerationRequest, prompt: FimPrompt, params: SamplingParams
) -> Response:
    model = service.model_name(request.model)
    if request.limit == 0:  # the prompt is to be computed for a later request to find; a token comes with that
        params = replace(params, max_tokens=min(1, service.ctx - len(prompt.ids)))
    elif "infill" in request.chain:
        params = replace(params, logprobs=CANDIDATES)
    salt = uuid.uuid4().hex if request.cache_prompt is False else ""
    answer = Answer(service, request, model, prompt, params)
    deltas = await submit(service.engine, [Job(prompt.ids, params)], cache_salt=salt)
    headers = ignored_header(request.ignored)
    if request.stream:
        return EventStream(answer.events(deltas), deltas, headers)
    async with aclosing(deltas):
        await while_connected(http.receive, answer.read(deltas))
    return json_response(answer.whole(), headers=headers)


@dataclass(slots=True)
class Answer:
    """One output as it grows, and how it ended."""

    service: Service
    request: GenerationRequest
    model: str
    prompt: FimPrompt
    params: SamplingParams
    text: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    stop_type: str = "none"
    stopping_word: str = ""
    timings: Timings = field(init=False)
    _limits: Limits = field(init=False)

    def __post_init__(self) -> None:
        self.timings = Timings(len(self.prompt.ids))
        milliseconds = self.request.t_max_predict_ms or 0.0
        self._limits = Limits(self.request.n_indent, milliseconds / 1000 if milliseconds > 0 else None)

    def take(self, delta: Delta) -> str:
        """Count one delta in; returns the text of it that belongs to the output. Raises when the request failed."""
        error = failure(delta)
        if error is not None:
            raise error
        text, token_ids = delta.text, delta.token_ids
        over = False
        if self.request.limit == 0:
            text, token_ids, over, self.stop_type = "", [], True, "limit"
        for at, entry in enumerate(delta.logprobs or ()):
            if entry.token_id not in self.service.tokenizer.eos_ids and unsure(entry, self.service.tokenizer):
                token_ids, over = token_ids[:at], True
                text = self.service.tokenizer.decode(token_ids).strip("\ufffd")  # half characters are not shown
                self.stop_type = "eos"
                break
        if text:
            shown, cut = self._limits.push(text)
            if cut:
                text, over, self.stop_type = shown, True, "limit"
        self.timings.count(len(token_ids), delta.cached_tokens)
        self.text.append(text)
        self.token_ids += token_ids
        if not over and delta.finish_reason is not None:
            self._finish(delta)
        return text

    def _finish(self, delta: Delta) -> None:
        if delta.finish_reason == "length" or delta.stop_reason in (LOOP_STOP_REASON, CLOSED_STOP_REASON):
            self.stop_type = "limit"
        elif isinstance(delta.stop_reason, str):
            self.stop_type, self.stopping_word = "word", delta.stop_reason
        else:
            self.stop_type = "eos"

    @property
    def over(self) -> bool:
        """Whether the output has ended."""
        return self.stop_type != "none"

    async def read(self, deltas: Deltas) -> None:
        """Take deltas until the output is over."""
        async for _, delta in deltas:
            self.take(delta)
            if self.over:
                return

    async def events(self, deltas: Deltas) -> AsyncGenerator[bytes, None]:
        """The server-sent events of a streamed answer; the last one has `stop: true` and everything else."""
        try:
            async for _, delta in deltas:
                token_ids = len(self.token_ids)
                text = self.take(delta)
                if text:
                    yield _event(self._piece(text, self.token_ids[token_ids:]))
                if self.over:
                    break
            yield _event(self.whole(streamed=True))
        except Exception as error:
            yield error_event(error)

    def _piece(self, text: str, token_ids: list[int]) -> dict[str, Any]:
        piece: dict[str, Any] = {
            "index": 0,
            "content": text,
            "tokens": token_ids,
            "stop": False,
            "id_slot": 0,
            "tokens_predicted": len(self.token_ids),
            "tokens_evaluated": len(self.prompt.ids),
        }
        if self.request.timings_per_token:
            piece["timings"] = self.timings.render()
        return piece

    def whole(self, *, streamed: bool = False) -> dict[str, Any]:
        """The body of an answer, or the last event of a stream."""
        text = "".join(self.text)
        trimmed = self.prompt.trimmed
        body: dict[str, Any] = {
            "index": 0,
            "content": "" if streamed else text,
            "tokens": self.token_ids if self.request.return_tokens and not streamed else [],
            "id_slot": 0,
            "stop": True,
            "model": self.model,
            "tokens_predicted": len(self.token_ids),
            "tokens_evaluated": len(self.prompt.ids),
            "generation_settings": generation_settings(self.params, self.request),
            "prompt": self.service.tokenizer.decode(self.prompt.ids, skip_special=False),
            "has_new_line": "\n" in text,
            "truncated": bool(trimmed),
            "tokens_trimmed": {"prefix": trimmed.prefix, "suffix": trimmed.suffix, "extra": trimmed.files},
            "stop_type": self.stop_type,
            "stopping_word": self.stopping_word,
            "tokens_cached": self.timings.cached,
            "timings": self.timings.render(),
        }
        return select(body, self.request.response_fields) if self.request.response_fields else body


def select(body: dict[str, Any], fields: list[str]) -> dict[str, Any]:
    """The fields asked for, by name or by path (`timings/prompt_n`), under those names, as llama.cpp has it."""
    chosen: dict[str, Any] = {}
    for name in fields:
        value: Any = body
        for part in name.split("/"):
            value = value.get(part, _MISSING) if isinstance(value, dict) else _MISSING
        if value is not _MISSING:
            chosen[name] = value
    return chosen


_MISSING = object()


def _event(content: dict[str, Any]) -> bytes:
    return f"data: {dumps(content)}\n\n".encode("ascii")
