"""What a model was created with beside its weights: a system message, a chat template, and parameters.

Parameters have Ollama's names. Those of sampling hold in every protocol, for what a request leaves open.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_SAMPLING = {
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "repeat_penalty": "repetition_penalty",
}
"""Fields of `SamplingParams` that a server's protocols take from `Service.recommended`."""


def as_sampling(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of sampling, as fields of `SamplingParams`."""
    given = settings.get("parameters") or {}
    return {field: given[name] for name, field in _SAMPLING.items() if given.get(name) is not None}
