"""`POST /v1/completions`: one or many prompts, as text or token ids, continued raw or, with a suffix, filled in."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

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
from befit.api.openai.chunks import ChunkWriter, error_event
from befit.api.openai.errors import json_response
from befit.api.openai.fields import ignored_header
from befit.api.openai.ids import new_id
from befit.api.openai.logprobs import LogprobWriter
from befit.api.openai.types import CompletionRequest, parse
from befit.api.openai.usage import Usage
from befit.api.service import Service
from befit.api.stream import DONE, EventStream
from befit.engine.outputs import CompletionOutput, Delta, TokenLogprob
from befit.errors import InvalidRequest

MAX_PROMPTS = 1024


async def create_completion(service: Service, http: Request) -> Response:
    """Validate, admit, then stream or answer whole."""
    request = parse(CompletionRequest, await read_body(http))
    model = service.model_name(request.model)
    prompts = parse_prompts(request.prompt, service.tokenizer.vocab_size)
    jobs, texts = [], []
    for prompt in prompts:
        ids = await _prompt_ids(service, request, prompt)
        least = 0 if request.max_tokens == 0 else 1
        params = request.sampling(room(ids, service.ctx, "prompt", output=least))
        jobs.append(Job(ids, require(service.fim, "suffix").ends(params) if request.suffix else params))
        texts.append(_echo_text(service, request, prompt) if request.echo else "")
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
        return (await off_loop(len(prompt) + len(request.suffix), fill, prompt, request.suffix)).ids
    if isinstance(prompt, list):
        return prompt
    return await encode(service.tokenizer, prompt, add_special=request.add_special_tokens is not False)


def parse_prompts(value: Any, vocab_size: int) -> list[str | list[int]]:
    """The prompts of a request, each a string or token ids. Raises InvalidRequest for any other shape."""
    if isinstance(value, str) or _token_ids(value):
        value = [value]
    if not isinstance(value, list) or not value:
        raise InvalidRequest(
            "prompt must be a string, a list of strings, a list of token ids or a list of token id lists, not empty.",
            "prompt",
        )
    if len(value) > MAX_PROMPTS:
        raise InvalidRequest(f"prompt holds {len(value)} prompts; at most {MAX_PROMPTS} a request.", "prompt")
    for position, one in enumerate(value):
        if isinstance(one, str):
            continue
        if not _token_ids(one):
            raise InvalidRequest(f"prompt[{position}] is neither a string nor a list of token ids.", "prompt")
        low, high = min(one), max(one)
        if low < 0 or high >= vocab_size:
            wrong = low if low < 0 else high
            raise InvalidRequest(
                f"prompt[{position}] holds token {wrong}; the model's tokens are 0 to {vocab_size - 1}.", "prompt"
            )
    return value


def _token_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(one) is int for one in value)


def _echo_text(service: Service, request: CompletionRequest, prompt: str | list[int]) -> str:
    if isinstance(prompt, str):
        return prompt
    return service.tokenizer.decode(prompt, skip_special=request.skip_special_tokens is not False)


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
            for output in answer.outputs:
                self.usage.completion += len(output.token_ids)
                choices.append(self._choice(position, output, answer.prompt_logprobs))
        return {**self._envelope, "choices": choices, "usage": self.usage.render()}

    def _choice(
        self, position: int, output: CompletionOutput, prompt_logprobs: list[TokenLogprob | None] | None
    ) -> dict[str, Any]:
        job = self.jobs[position]
        choice = {
            "index": position * job.params.n + output.index,
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
                index = position * self.jobs[position].params.n + delta.index
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
