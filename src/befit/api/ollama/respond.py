"""What `/api/generate` and `/api/chat` share: prompts that fit, and answers whole or in lines."""

from __future__ import annotations

from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from befit.api.answers import json_response
from befit.api.generation import Job, submit, while_connected
from befit.api.models.fleet import Fleet
from befit.api.ollama.answer import Answer
from befit.api.ollama.types import GenerationRequest
from befit.api.openai.fields import ignored_header
from befit.api.service import Service
from befit.api.stream import LineStream
from befit.sampling import SamplingParams


async def respond(
    service: Service, http: Request, request: GenerationRequest, answer: Answer, params: SamplingParams
) -> Response:
    """Admit, then stream or answer whole."""
    deltas = await submit(service.engine, [Job(answer.prompt_ids, params)])
    ignored = list(request.ignored)
    if request.options is not None and (request.options.num_ctx or 0) > service.ctx:
        ignored.append("options.num_ctx")
    ignored += request.in_vain(service.template.switches_thinking)
    headers = ignored_header(ignored)
    if request.streams:
        return LineStream(answer.lines(deltas), deltas, headers)
    async with aclosing(deltas):
        body = await while_connected(http.receive, answer.whole(deltas))
    return json_response(body, headers=headers)


def fitting(ids: list[int], ctx: int, truncate: bool | None) -> list[int]:
    """The prompt. Where `truncate` asks for it, only its end, so that half of the context is left for the output; if it
    is not asked for, a prompt that does not fit is refused, whatever Ollama's default."""
    return ids[-max(1, ctx // 2) :] if truncate and len(ids) >= ctx else ids


async def only_load(fleet: Fleet, request: GenerationRequest, members: dict[str, Any]) -> Response:
    """The answer to a request without a prompt, which asks for the model to be loaded, or, with keep_alive 0, to go."""
    member = await fleet.member(request.asked)
    reason = "load"
    if request.unloads and fleet.keep(member, 0):
        await fleet.unload(member)  # if requests use it, it goes after them
        reason = "unload"
    else:
        await request.served(fleet)
    model = request.asked if request.asked in member.names else member.name
    now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    body = {"model": model, "created_at": now, **members, "done": True, "done_reason": reason}
    return json_response(body, headers=ignored_header(request.ignored))
