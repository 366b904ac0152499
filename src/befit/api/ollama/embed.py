"""`POST /api/embed` and the older `/api/embeddings`."""

from __future__ import annotations

import time
from contextlib import aclosing
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from befit.api.answers import json_response
from befit.api.body import read_body
from befit.api.generation import Job, encode, room, submit, while_connected
from befit.api.models.fleet import Fleet
from befit.api.ollama.types import EmbedRequest
from befit.api.openai.embeddings import MAX_INPUTS, default_pooling, gather, shorten
from befit.api.openai.fields import ignored_header
from befit.api.openai.inputs import parse_inputs
from befit.api.openai.request_body import parse
from befit.api.service import Service
from befit.sampling import SamplingParams


async def embed(fleet: Fleet, http: Request) -> Response:
    """A vector of length 1 for each input."""
    began = time.monotonic()
    request = parse(EmbedRequest, await read_body(http))
    service = await request.served(fleet)
    model = service.model_name(request.asked)
    vectors, tokens = await _vectors(service, http, request, request.input, "input")
    body = {
        "model": model,
        "embeddings": [[float(x) for x in shorten(vector, request.dimensions)] for vector in vectors],
        "total_duration": int((time.monotonic() - began) * 1e9),
        "load_duration": 0,
        "prompt_eval_count": tokens,
    }
    return json_response(body, headers=ignored_header(request.ignored))


async def embeddings(fleet: Fleet, http: Request) -> Response:
    """The vector of one prompt, as it is."""
    request = parse(EmbedRequest, await read_body(http))
    service = await request.served(fleet)
    [vector], _ = await _vectors(service, http, request, request.prompt, "prompt")
    return json_response({"embedding": [float(x) for x in vector]}, headers=ignored_header(request.ignored))


async def _vectors(
    service: Service, http: Request, request: EmbedRequest, given: Any, param: str
) -> tuple[list[Any], int]:
    """The vectors, and how many tokens were read. truncate keeps the beginning, and only where it is asked for."""
    jobs = []
    for one in parse_inputs(given, service.tokenizer.vocab_size, param=param, most=MAX_INPUTS):
        ids = one if isinstance(one, list) else await encode(service.tokenizer, one, add_special=True)
        ids = ids[: service.ctx] if request.truncate else ids
        room(ids, service.ctx, param, output=0)
        jobs.append(Job(ids, SamplingParams(max_tokens=0)))
    deltas = await submit(service.engine, jobs, pooling=default_pooling(service))
    async with aclosing(deltas):
        vectors = await while_connected(http.receive, gather(deltas, len(jobs)))
    return vectors, sum(len(job.prompt_ids) for job in jobs)
