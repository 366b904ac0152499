"""`GET /slots`: how many sequences run, told as llama.cpp's slots."""

from __future__ import annotations

from starlette.responses import Response

from befit.api.answers import json_response
from befit.api.service import Service
from befit.errors import Overloaded


def slots(service: Service, must_be_free: str | None) -> Response:
    """A slot stands for a sequence that may run; which of them one runs in means nothing here, so the first ones are
    busy. Raises Overloaded when all are, if must_be_free is "1"."""
    config = service.engine.model.config
    running = min(service.engine.stats().running, config.max_seqs)
    if must_be_free == "1" and running == config.max_seqs:
        raise Overloaded(f"All {config.max_seqs} slots are busy; try again later.")
    speculates = config.speculation != "off"
    return json_response(
        [
            {"id": number, "n_ctx": service.ctx, "speculative": speculates, "is_processing": number < running}
            for number in range(config.max_seqs)
        ]
    )
