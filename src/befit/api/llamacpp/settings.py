"""`generation_settings`: what a request was generated with, under llama.cpp's names."""

from __future__ import annotations

from typing import Any

from befit.api.llamacpp.types import GenerationRequest
from befit.sampling import SamplingParams


def generation_settings(params: SamplingParams, request: GenerationRequest) -> dict[str, Any]:
    """The settings in use, not those asked for: a sampler that is off shows the value that does nothing."""
    limit = -1 if request.limit is None else request.limit
    return {
        "seed": -1 if params.seed is None else params.seed,
        "temperature": params.temperature,
        "top_k": params.top_k,
        "top_p": params.top_p,
        "min_p": params.min_p,
        "typical_p": params.typical_p,
        "repeat_last_n": -1,
        "repeat_penalty": params.repetition_penalty,
        "presence_penalty": params.presence_penalty,
        "frequency_penalty": params.frequency_penalty,
        "stop": list(params.stop),
        "max_tokens": limit,
        "n_predict": limit,
        "n_indent": request.n_indent or 0,
        "t_max_predict_ms": -1 if request.t_max_predict_ms is None else request.t_max_predict_ms,
        "ignore_eos": params.ignore_eos,
        "stream": bool(request.stream),
        "samplers": list(request.chain),
        "timings_per_token": bool(request.timings_per_token),
    }
