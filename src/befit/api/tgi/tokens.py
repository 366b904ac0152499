"""Tokens as TGI lists them, and `POST /tokenize` and `/chat_tokenize` in its shape."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from befit.api.answers import json_response
from befit.api.generation import encode, off_loop
from befit.api.models.fleet import Fleet
from befit.api.openai.chat import prompt_ids
from befit.api.openai.request_body import build, parse
from befit.api.openai.types import ChatRequest
from befit.api.tgi.types import GenerateRequest
from befit.api.tools.request import tool_use
from befit.engine.outputs import TokenLogprob
from befit.tokenizer.incremental import IncrementalDecoder

if TYPE_CHECKING:
    from befit.tokenizer.base import Tokenizer

_LOWEST = -9999.0  # for minus infinity, which JSON cannot say


class TokenWriter:
    """`{"id", "text", "logprob", "special"}`: a character's text comes with the token that completes it."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def stream(self) -> Callable[[int, float], dict[str, Any]]:
        """A function that lists one token of an output after another."""
        decoder = IncrementalDecoder(self._tokenizer, skip_special=False)

        def spelled(token: int, logprob: float) -> dict[str, Any]:
            special = self._tokenizer.is_special(token)
            return {
                "id": token,
                "text": decoder.push(token),
                "logprob": max(logprob, _LOWEST),
                "special": special or token in self._tokenizer.eos_ids,
            }

        return spelled

    def listed(self, tokens: list[int], logprobs: list[TokenLogprob]) -> list[dict[str, Any]]:
        """All tokens of an output."""
        spelled = self.stream()
        return [spelled(token, entry.logprob) for token, entry in zip(tokens, logprobs, strict=True)]

    def top(self, entry: TokenLogprob, count: int) -> list[dict[str, Any]]:
        """The likeliest tokens at one position."""
        return [self.stream()(token, logprob) for token, logprob in entry.top[:count]]

    def prefill(self, tokens: list[int], logprobs: list[TokenLogprob | None]) -> list[dict[str, Any]]:
        """The prompt's tokens; the first has no log-probability."""
        decoder = IncrementalDecoder(self._tokenizer, skip_special=False)
        return [
            {
                "id": token,
                "text": decoder.push(token),
                "logprob": None if entry is None else max(entry.logprob, _LOWEST),
            }
            for token, entry in zip(tokens, logprobs, strict=True)
        ]

    def placed(self, tokens: list[int]) -> list[dict[str, Any]]:
        """Tokens with the characters of the text that they cover, from `start` up to `stop`."""
        decoder = IncrementalDecoder(self._tokenizer, skip_special=False)
        at, placed = 0, []
        for token in tokens:
            text = decoder.push(token)
            stop = at if self._tokenizer.is_special(token) else at + len(text)
            placed.append({"id": token, "text": text, "start": at, "stop": stop})
            at = stop
        return placed


async def tokenize(fleet: Fleet, body: bytes) -> Response:
    """The tokens of `inputs`, with their places in it."""
    request = parse(GenerateRequest, body)
    service = await fleet.service()
    ids = await encode(service.tokenizer, request.inputs, add_special=True)
    return json_response(await off_loop(len(request.inputs), TokenWriter(service.tokenizer).placed, ids))


async def chat_tokenize(fleet: Fleet, fields: dict[str, Any], size: int) -> Response:
    """A conversation as the prompt that the model would see, and its tokens."""
    request = build(ChatRequest, fields)
    use = tool_use(request.tools, request.tool_choice, request.parallel_tool_calls)
    service = await fleet.service()
    ids = await off_loop(size, prompt_ids, service, request, use)
    text = service.tokenizer.decode(ids, skip_special=False)
    tokens = await off_loop(size, TokenWriter(service.tokenizer).placed, ids)
    return json_response({"tokenize_response": tokens, "templated_text": text})
