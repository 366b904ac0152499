"""`POST /v1/embeddings`: texts as vectors, pooled from the loaded model's last hidden states."""

from __future__ import annotations

import base64
import time
from collections.abc import Mapping
from contextlib import aclosing
from typing import Any, cast

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from befit.api.answers import json_response
from befit.api.body import read_body
from befit.api.generation import Deltas, Job, encode, failure, room, submit, while_connected
from befit.api.models.fleet import Fleet
from befit.api.openai.fields import ignored_header
from befit.api.openai.ids import new_id
from befit.api.openai.inputs import parse_inputs
from befit.api.openai.request_body import RequestBody, parse
from befit.api.service import Service
from befit.api.truncate import truncate
from befit.backends.base import F32
from befit.engine.pooling import Pooling
from befit.errors import InvalidRequest
from befit.sampling import SamplingParams

MAX_INPUTS = 2048
_POOLING_TYPES: Mapping[int, Pooling] = {1: "mean", 3: "last"}
"""The meanings of GGUF's `<architecture>.pooling_type` that a causal model can have."""


class EmbeddingRequest(RequestBody):
    """`/v1/embeddings`: OpenAI's fields, then vLLM's."""

    model: str | None = None
    input: Any = None
    encoding_format: str | None = None
    dimensions: int | None = None

    pooling: str | None = None
    normalize: bool | None = None
    add_special_tokens: bool | None = None
    truncate_prompt_tokens: int | None = None
    truncation_side: str | None = None
    priority: int | None = None
    cache_salt: str | None = None
    request_id: str | None = None

    def check(self) -> None:
        """Refuse what cannot be honoured."""
        super().check()
        if self.encoding_format not in (None, "float", "base64"):
            raise InvalidRequest(
                f"encoding_format is {self.encoding_format[:60]!r}; it must be float or base64.", "encoding_format"
            )
        if self.pooling not in (None, "mean", "last"):
            raise InvalidRequest(f"pooling is {self.pooling[:60]!r}; it must be mean or last.", "pooling")


async def create_embeddings(fleet: Fleet, http: Request) -> Response:
    """Validate, pool every input, answer."""
    request = parse(EmbeddingRequest, await read_body(http))
    service = await fleet.service(request.model)
    model = service.model_name(request.model)
    width = service.engine.model.program.hidden_size
    if request.dimensions is not None and not 1 <= request.dimensions <= width:
        raise InvalidRequest(
            f"dimensions is {request.dimensions}; the model's vectors have {width}: ask for 1 to {width}.", "dimensions"
        )
    number = new_id("embd-", request.request_id)
    jobs = []
    for one in parse_inputs(request.input, service.tokenizer.vocab_size, param="input", most=MAX_INPUTS):
        add_special = request.add_special_tokens is not False
        ids = one if isinstance(one, list) else await encode(service.tokenizer, one, add_special=add_special)
        ids = truncate(ids, request.truncate_prompt_tokens, request.truncation_side, ctx=service.ctx, output=0)
        room(ids, service.ctx, "input", output=0)
        jobs.append(Job(ids, SamplingParams(max_tokens=0)))
    pooling = cast(Pooling, request.pooling) if request.pooling is not None else default_pooling(service)
    deltas = await submit(
        service.engine,
        jobs,
        priority=request.priority or 0,
        cache_salt=request.cache_salt or "",
        pooling=pooling,
    )
    async with aclosing(deltas):
        vectors = await while_connected(http.receive, gather(deltas, len(jobs)))
    tokens = sum(len(job.prompt_ids) for job in jobs)
    body = {
        "id": number,
        "object": "list",
        "created": int(time.time()),
        "model": model,
        "data": [
            {"object": "embedding", "index": index, "embedding": _write(_shape(vector, request), request)}
            for index, vector in enumerate(vectors)
        ],
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
    return json_response(body, headers=ignored_header(request.ignored))


def default_pooling(service: Service) -> Pooling:
    """What the model file says, else the mean."""
    metadata = service.engine.model.metadata
    kind = metadata.get(f"{metadata.get('general.architecture')}.pooling_type")
    return _POOLING_TYPES.get(kind, "mean") if isinstance(kind, int) else "mean"


async def gather(deltas: Deltas, count: int) -> list[F32]:
    """The pooled vector of each input."""
    vectors: list[F32 | None] = [None] * count
    async for position, delta in deltas:
        error = failure(delta)
        if error is not None:
            raise error
        vectors[position] = delta.embedding
    assert all(vector is not None for vector in vectors)
    return cast(list[F32], vectors)


def _shape(vector: F32, request: EmbeddingRequest) -> F32:
    """The first `dimensions` components, of length 1 unless `normalize` is false."""
    return vector[: request.dimensions] if request.normalize is False else shorten(vector, request.dimensions)


def shorten(vector: F32, dimensions: int | None) -> F32:
    """The first `dimensions` components, all if None, as a vector of length 1."""
    vector = vector[:dimensions]
    length = float(np.linalg.norm(vector.astype(np.float64)))
    return np.asarray(vector / length if length > 0 else vector, np.float32)


def _write(vector: F32, request: EmbeddingRequest) -> str | list[float]:
    if request.encoding_format == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")
    return [float(x) for x in vector]
