"""`POST /generate`, `/generate_stream` and `/`: a prompt continued, whole or as events, in TGI's shape."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from befit.api.answers import dumps, json_response
from befit.api.generation import Collected, Deltas, Job, collect, encode, failure, room, submit, while_connected
from befit.api.models.fleet import Fleet
from befit.api.openai.fields import ignored_header
from befit.api.service import Service
from befit.api.stream import EventStream
from befit.api.tgi.errors import error_event
from befit.api.tgi.tokens import TokenWriter
from befit.api.tgi.types import GenerateRequest
from befit.engine.outputs import CLOSED_STOP_REASON, LOOP_STOP_REASON, CompletionOutput, Delta


async def generate(fleet: Fleet, http: Request, request: GenerateRequest, *, listed: bool = False) -> Response:
    """Admit, then stream or answer whole: an object, or a list of one where `listed`."""
    began = time.monotonic()
    asked = request.asked
    service = await fleet.service()
    ids = await encode(service.tokenizer, request.inputs, add_special=True)
    if asked.truncate is not None:
        ids = ids[-asked.truncate :]
    room(ids, service.ctx, "inputs")
    job = Job(ids, request.sampling(len(ids), service.ctx))
    deltas = await submit(service.engine, [job])
    answer = Answer(service, request, job, began, time.monotonic())
    headers = ignored_header(request.ignored)
    if request.stream:
        return EventStream(answer.events(deltas), deltas, {**headers, **answer.prompt_headers()})
    async with aclosing(deltas):
        [collected] = await while_connected(http.receive, collect(deltas, [job]))
    body = answer.whole(collected)
    return json_response([body] if listed else body, headers={**headers, **answer.headers(collected)})


@dataclass(slots=True)
class Answer:
    """The answer to one request. began, admitted: moments of the monotonic clock."""

    service: Service
    request: GenerateRequest
    job: Job
    began: float
    admitted: float
    tokens: TokenWriter = field(init=False)

    def __post_init__(self) -> None:
        self.tokens = TokenWriter(self.service.tokenizer)

    def whole(self, answer: Collected) -> dict[str, Any]:
        """The body of an answer: of several continuations, the one whose tokens are the likeliest."""
        best, *others = sorted(answer.outputs, key=_mean_logprob, reverse=True)
        body: dict[str, Any] = {"generated_text": self._text(best.text)}
        if self.request.asked.details or self.request.asked.decoder_input_details:
            body["details"] = self._details(best, answer)
            if others:
                body["details"]["best_of_sequences"] = [
                    {"generated_text": self._text(one.text), **self._details(one, answer)} for one in others
                ]
        return body

    def _details(self, output: CompletionOutput, answer: Collected) -> dict[str, Any]:
        asked = self.request.asked
        prefill = self.tokens.prefill(self.job.prompt_ids, answer.prompt_logprobs) if answer.prompt_logprobs else []
        details = {
            **self._ending(output.finish_reason, output.stop_reason, len(output.token_ids)),
            "prefill": prefill,
            "tokens": self.tokens.listed(output.token_ids, output.logprobs or []),
        }
        if asked.top_n_tokens:
            details["top_tokens"] = [self.tokens.top(entry, asked.top_n_tokens) for entry in output.logprobs or []]
        return details

    def _ending(self, reason: str | None, stop: str | int | None, count: int) -> dict[str, Any]:
        return {"finish_reason": _reason(reason, stop), "generated_tokens": count, "seed": self.job.params.seed}

    def _text(self, text: str) -> str:
        return self.request.inputs + text if self.request.asked.return_full_text else text

    async def events(self, deltas: Deltas) -> AsyncGenerator[bytes, None]:
        """One event a token; the last has the whole text and how it ended."""
        index, text = 0, ""
        spelled = self.tokens.stream()
        try:
            async for _, delta in deltas:
                error = failure(delta)
                if error is not None:
                    raise error
                text += delta.text
                entries = delta.logprobs or []
                events = []
                for at, token in enumerate(delta.token_ids):
                    index += 1
                    event: dict[str, Any] = {"index": index, "token": spelled(token, entries[at].logprob)}
                    if self.request.asked.top_n_tokens:
                        event["top_tokens"] = self.tokens.top(entries[at], self.request.asked.top_n_tokens)
                    last = at == len(delta.token_ids) - 1 and delta.finish_reason is not None
                    events.append(event | self._end_of_stream(delta, text, index, last))
                if events:
                    yield b"".join(f"data: {dumps(event)}\n\n".encode("ascii") for event in events)
        except Exception as error:
            yield error_event(error)

    def _end_of_stream(self, delta: Delta, text: str, index: int, last: bool) -> dict[str, Any]:
        if not last:
            return {"generated_text": None, "details": None}
        details = self._ending(delta.finish_reason, delta.stop_reason, index)
        details["input_length"] = len(self.job.prompt_ids)
        return {"generated_text": self._text(text), "details": details if self.request.asked.details else None}

    def prompt_headers(self) -> dict[str, str]:
        """What is known before the first token."""
        config = self.service.engine.model.config
        return {
            "x-compute-type": f"befit-{config.backend}",
            "x-compute-characters": str(len(self.request.inputs)),
            "x-prompt-tokens": str(len(self.job.prompt_ids)),
        }

    def headers(self, answer: Collected) -> dict[str, str]:
        """Milliseconds, but for `x-compute-time` in seconds, as at TGI. The wait in the queue is part of the rest."""
        now = time.monotonic()
        tokens = sum(len(output.token_ids) for output in answer.outputs)
        total, inference = (now - self.began) * 1e3, (now - self.admitted) * 1e3
        return {
            **self.prompt_headers(),
            "x-compute-time": f"{total / 1e3:.6f}",
            "x-total-time": f"{total:.0f}",
            "x-validation-time": f"{total - inference:.0f}",
            "x-inference-time": f"{inference:.0f}",
            "x-time-per-token": f"{inference / max(tokens, 1):.0f}",
            "x-generated-tokens": str(tokens),
        }


def _mean_logprob(output: CompletionOutput) -> float:
    entries = output.logprobs or []
    return sum(entry.logprob for entry in entries) / max(len(entries), 1)


def _reason(reason: str | None, stop: str | int | None) -> str:
    """TGI's finish reason. An output that the loop guard ended was as long as it may be."""
    if reason == "length" or stop == LOOP_STOP_REASON:
        return "length"
    return "stop_sequence" if isinstance(stop, str) and stop != CLOSED_STOP_REASON else "eos_token"
