"""`POST /v1/completions`: one or many prompts, as text or token ids, continued raw or, with a suffix, filled in."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from befit.api.answers import json_response
from befit.api.body import read_body
from befit.api.fim import require
from befit.api.generation import (
    Collected,
    Deltas,
    Job,
    collect,
    encode,
    failure,
    off_loop,
    room,
    submit,
    while_connected,
)
from befit.api.models.fleet import Fleet
from befit.api.openai.chunks import ChunkWriter, error_event
from befit.api.openai.fields import ignored_header
from befit.api.openai.ids import new_id
from befit.api.openai.inputs import parse_inputs
from befit.api.openai.logprobs import LogprobWriter
from befit.api.openai.types import CompletionRequest, parse
from befit.api.openai.usage import Usage
from befit.api.service import Service
from befit.api.stream import DONE, EventStream
from befit.api.truncate import kept, truncate
from befit.engine.outputs import CompletionOutput, Delta, TokenLogprob


async def create_completion(fleet: Fleet, http: Request) -> Response:
    """Validate, admit, then stream or answer whole."""
    request = parse(CompletionRequest, await read_body(http))
    service = await fleet.service(request.model)
    model = service.model_name(request.model)
    prompts = parse_inputs(request.prompt, service.tokenizer.vocab_size, param="prompt")
    jobs, texts = [], []
    for prompt in prompts:
        ids = await _prompt_ids(service, request, prompt)
        whole = len(ids)
        if not request.suffix:
            ids = truncate(
                ids,
                request.truncate_prompt_tokens,
                request.truncation_side,
                ctx=service.ctx,
                output=request.output_wanted,
            )
        least = 0 if request.max_tokens == 0 else 1
        params = request.sampling(room(ids, service.ctx, "prompt", output=least), service.recommended)
        jobs.append(Job(ids, require(service.fim, "suffix").ends(params) if request.suffix else params))
        texts.append(_echo_text(service, request, prompt if len(ids) == whole else ids) if request.echo else "")
    answer = Completion(service, request, model, jobs, texts, new_id("cmpl-", request.request_id))
    deltas = await submit(service.engine, jobs, priority=request.priority or 0, cache_salt=request.cache_salt or "")
    headers = ignored_header(request.ignored)
    if request.stream:
        return EventStream(answer.events(deltas), deltas, headers)
    async with aclosing(deltas):
        collected = await while_connected(http.receive, collect(deltas, jobs))
    return json_response(answer.whole(collected), headers=headers)


async def _prompt_ids(service: Service, request: CompletionRequest, prompt: str | list[int]) -> list[int]:
    """The token ids of one prompt; with a suffix, those of a hole between the two."""
    if request.suffix:
        fill = require(service.fim, "suffix").prompt
        asked, output = request.truncate_prompt_tokens, request.output_wanted
        limit = None if asked is None else kept(asked, ctx=service.ctx, output=output)
        size = len(prompt) + len(request.suffix)
        return (await off_loop(size, fill, prompt, request.suffix, limit=limit)).ids
    if isinstance(prompt, list):
        return prompt
    return await encode(service.tokenizer, prompt, add_special=request.add_special_tokens is not False)


def _echo_text(service: Service, request: CompletionRequest, prompt: str | list[int]) -> str:
    if isinstance(prompt, str):
        return prompt
    return service.tokenizer.decode(prompt, skip_special=request.skip_special_tokens is not False)


def _best(outputs: list[CompletionOutput], n: int) -> list[CompletionOutput]:
    """The n outputs with the highest log-probability a token, best first and numbered so; all of them as they are."""
    if len(outputs) == n:
        return outputs

    def mean(output: CompletionOutput) -> float:
        logprobs = output.logprobs or []
        return sum(entry.logprob for entry in logprobs) / len(logprobs) if logprobs else -math.inf

    best = sorted(outputs, key=mean, reverse=True)[:n]
    return [dataclasses.replace(output, index=index) for index, output in enumerate(best)]


@dataclass(slots=True)
class _Choice:
    """One continuation while it streams: where its text stands, and whether its first chunk was sent."""

    offset: int = 0
    started: bool = False


@dataclass(slots=True)
class Completion:
    """The answer to one request, whole or as events."""

    service: Service
    request: CompletionRequest
    model: str
    jobs: list[Job]
    echo: list[str]
    id: str
    created: int = field(default_factory=lambda: int(time.time()))
    usage: Usage = field(init=False)
    spell: LogprobWriter = field(init=False)

    def __post_init__(self) -> None:
        self.usage = Usage(sum(len(job.prompt_ids) for job in self.jobs))
        self.spell = LogprobWriter(
            self.service.tokenizer,
            skip_special=self.request.skip_special_tokens is not False,
            as_ids=bool(self.request.return_tokens_as_token_ids),
        )

    @property
    def n(self) -> int:
        """Choices a prompt."""
        return self.request.n or 1

    @property
    def _envelope(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.service.fingerprint,
        }

    def whole(self, answers: list[Collected]) -> dict[str, Any]:
        """The body of a non-streamed answer."""
        choices = []
        for position, answer in enumerate(answers):
            self.usage.cached += answer.cached_tokens
            self.usage.completion += sum(len(output.token_ids) for output in answer.outputs)
            for output in _best(answer.outputs, self.n):
                choices.append(self._choice(position, output, answer.prompt_logprobs))
        return {**self._envelope, "choices": choices, "usage": self.usage.render()}

    def _choice(
        self, position: int, output: CompletionOutput, prompt_logprobs: list[TokenLogprob | None] | None
    ) -> dict[str, Any]:
        job = self.jobs[position]
        choice = {
            "index": position * self.n + output.index,
            "text": self.echo[position] + output.text,
            "logprobs": self._logprobs(position, output.token_ids, output.logprobs, prompt_logprobs, _Choice()),
            "finish_reason": output.finish_reason,
            "stop_reason": output.stop_reason,
        }
        if self.request.prompt_logprobs is not None and prompt_logprobs is not None:
            choice["prompt_logprobs"] = self.spell.prompt(prompt_logprobs)
        if self.request.return_token_ids:
            choice["prompt_token_ids"] = job.prompt_ids
            choice["token_ids"] = output.token_ids
        return choice

    def _logprobs(
        self,
        position: int,
        token_ids: list[int],
        logprobs: list[TokenLogprob] | None,
        prompt_logprobs: list[TokenLogprob | None] | None,
        choice: _Choice,
    ) -> dict[str, Any] | None:
        """The logprobs of a choice or of one of its chunks; the first one includes an echoed prompt."""
        if self.request.logprobs is None:
            return None
        tokens: list[int] = list(token_ids)
        entries: list[TokenLogprob | None] = list(logprobs or ())
        if self.request.echo and not choice.started:
            prompt_ids = self.jobs[position].prompt_ids
            tokens = prompt_ids + tokens
            entries = list(prompt_logprobs or [None] * len(prompt_ids)) + entries
        block, choice.offset = self.spell.completion(
            tokens, entries, top=self.request.logprobs > 0, offset=choice.offset
        )
        return block

    async def events(self, deltas: Deltas) -> AsyncGenerator[bytes, None]:
        """The server-sent events of a streamed answer."""
        request = self.request
        writer = ChunkWriter(self._envelope, text_key='"text":', text_end="", usage_null=request.include_usage)
        plain = (
            request.logprobs is None
            and not request.return_token_ids
            and not request.echo
            and not request.usage_in_every_chunk
        )
        choices: dict[int, _Choice] = {}
        prompt_logprobs: dict[int, list[TokenLogprob | None]] = {}
        try:
            async for position, delta in deltas:
                self.usage.completion += len(delta.token_ids)
                self.usage.cached += delta.cached_tokens
                index = position * self.n + delta.index
                if plain and delta.finish_reason is None:
                    if delta.text:
                        yield writer.text(index, delta.text).encode("ascii")
                    continue
                error = failure(delta)
                if error is not None:
                    raise error
                if delta.prompt_logprobs is not None:
                    prompt_logprobs[position] = delta.prompt_logprobs
                choice = choices.setdefault(index, _Choice())
                yield self._chunk(writer, index, position, delta, prompt_logprobs.get(position), choice)
            if request.include_usage:
                yield writer.usage(self.usage.render()).encode("ascii")
            yield DONE
        except Exception as error:
            yield error_event(error)

    def _chunk(
        self,
        writer: ChunkWriter,
        index: int,
        position: int,
        delta: Delta,
        prompt_logprobs: list[TokenLogprob | None] | None,
        choice: _Choice,
    ) -> bytes:
        logprobs = self._logprobs(position, delta.token_ids, delta.logprobs, prompt_logprobs, choice)
        text = delta.text if choice.started else self.echo[position] + delta.text
        extra: dict[str, Any] = {}
        if self.request.return_token_ids:
            extra["token_ids"] = delta.token_ids
            if not choice.started:
                extra["prompt_token_ids"] = self.jobs[position].prompt_ids
        if delta.finish_reason is not None:
            extra["stop_reason"] = delta.stop_reason
        choice.started = True
        return writer.full(
            index,
            text,
            logprobs=logprobs,
            finish_reason=delta.finish_reason,
            choice_extra=extra,
            usage=self.usage.render() if self.request.usage_in_every_chunk else None,
        ).encode("ascii")
