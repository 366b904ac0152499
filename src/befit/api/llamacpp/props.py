"""`GET /props` and `POST /apply-template`: what the server is set to, and a conversation as its prompt."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from befit.api.answers import json_response
from befit.api.body import read_body
from befit.api.generation import off_loop
from befit.api.llamacpp.settings import generation_settings
from befit.api.llamacpp.types import GenerationRequest
from befit.api.models.fleet import Fleet
from befit.api.openai.messages import known_roles
from befit.api.openai.request_body import RequestBody, parse
from befit.api.service import Service


def properties(service: Service) -> dict[str, Any]:
    """llama.cpp's properties; `chat_template_source`, `infill` and `befit_version` are befit's own."""
    model = service.engine.model
    defaults = GenerationRequest()
    template, fim = service.template, service.fim
    bos = model.tokenizer.bos_id
    eos = model.metadata.get("tokenizer.ggml.eos_token_id")
    return {
        "default_generation_settings": {
            "params": generation_settings(defaults.sampling(service.ctx), defaults),
            "n_ctx": service.ctx,
        },
        "total_slots": model.config.max_seqs,
        "model_alias": service.names[0],
        "model_path": str(model.path),
        "modalities": {"vision": False, "video": False, "audio": False},
        "endpoint_slots": True,
        "endpoint_props": False,
        "endpoint_metrics": True,
        "chat_template": template.text,
        "chat_template_caps": {
            "supports_system_role": not template.drops_system,
            "supports_tools": template.takes_tools,
        },
        "chat_template_source": template.source,
        "infill": None if fim is None else {"family": fim.name},
        "bos_token": "" if bos is None else model.tokenizer.token_text(bos),
        "eos_token": model.tokenizer.token_text(eos) if isinstance(eos, int) else "",
        "build_info": f"befit {service.version}",
        "is_sleeping": False,
    }


class TemplateRequest(RequestBody):
    """`/apply-template`: the fields of a chat that its template sees."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None = None
    add_generation_prompt: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    def check(self) -> None:
        """Let the other fields of a chat pass: a prompt does not depend on them."""


async def apply_template(fleet: Fleet, http: Request) -> Response:
    """The prompt that a chat with these messages would have."""
    body = await read_body(http)
    request = parse(TemplateRequest, body)
    service = await fleet.service()

    def render() -> str:
        return service.template.render(
            known_roles(request.messages),
            tools=request.tools,
            add_generation_prompt=request.add_generation_prompt is not False,
            **(request.chat_template_kwargs or {}),
        )

    return json_response({"prompt": await off_loop(len(body), render)})
