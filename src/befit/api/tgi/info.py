"""`GET /info`: TGI's description of a server."""

from __future__ import annotations

from typing import Any

from befit.api.body import MAX_BODY_BYTES
from befit.api.openai.inputs import MAX_PROMPTS
from befit.api.service import Service
from befit.sampling import MAX_N


def info(service: Service) -> dict[str, Any]:
    """TGI's fields; `chat_template_source` is befit's own."""
    config = service.engine.model.config
    return {
        "model_id": service.names[0],
        "model_sha": None,
        "model_pipeline_tag": "text-generation",
        "max_concurrent_requests": config.max_queue + config.max_seqs,
        "max_best_of": MAX_N,
        "max_stop_sequences": 2**31 - 1,
        "max_input_tokens": service.ctx - 1,
        "max_total_tokens": service.ctx,
        "max_client_batch_size": MAX_PROMPTS,
        "validation_workers": 1,
        "payload_limit": MAX_BODY_BYTES,
        "router": "befit",
        "version": service.version,
        "sha": None,
        "docker_label": None,
        "chat_template_source": service.template.source,
    }
