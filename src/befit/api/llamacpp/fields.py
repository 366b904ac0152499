"""Fields of llama.cpp's requests that befit accepts without effect, or knows and refuses.

Its editor extensions send the samplers' fields to the OpenAI endpoints too."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

SHAPES = frozenset(
    {
        *("adaptive_decay", "dry_allowed_length", "dry_base", "dry_penalty_last_n", "dry_sequence_breakers"),
        *("dynatemp_exponent", "mirostat_eta", "mirostat_tau", "xtc_threshold"),
    }
)
"""They shape samplers that are off unless a field of SAMPLERS turns them on."""

HINTS = SHAPES | {"id_slot", "min_keep", "n_discard", "n_keep", "t_max_prompt_ms", "user"}
"""Accepted, with no effect: there are no slots, a context is never shifted, and llama.cpp does nothing with
t_max_prompt_ms either."""

_OFF: tuple[Any, ...] = (None, False, 0, "", [], {})


def _off(*values: Any) -> Callable[[Any], bool]:
    return lambda value: value in _OFF or value in values


SAMPLERS: Mapping[str, Callable[[Any], bool]] = {
    "adaptive_target": _off(-1),
    "dry_multiplier": _off(),
    "dynatemp_range": _off(),
    "mirostat": _off(),
    "top_n_sigma": _off(-1),
    "xtc_probability": _off(),
}
UNSUPPORTED: Mapping[str, Callable[[Any], bool]] = {
    **SAMPLERS,
    "grammar": _off(),
    "image_data": _off(),
    "json_schema": _off(),
    "logit_bias": _off(),
    "lora": _off(),
    "multimodal_data": _off(),
    "n_probs": _off(),
    "post_sampling_probs": _off(),
    "return_progress": _off(),
}
"""With what asks for nothing in each."""

LETTERS = {
    "e": "penalties",
    "k": "top_k",
    "y": "typ_p",
    "p": "top_p",
    "m": "min_p",
    "t": "temperature",
    "i": "infill",
    "d": "dry",
    "x": "xtc",
    "s": "top_n_sigma",
    "a": "adaptive_p",
}
"""Samplers by the letters that stand for them when `samplers` is a string."""
CHAIN = ("penalties", "top_k", "typ_p", "top_p", "min_p", "temperature")
"""The samplers that befit has."""


def chain(samplers: list[str] | str | None) -> tuple[str, ...]:
    """The samplers that are on."""
    if samplers is None:
        return CHAIN
    if isinstance(samplers, str):
        return tuple(LETTERS[letter] for letter in samplers if letter in LETTERS)
    return tuple(samplers)


def whole_chain(samplers: Any) -> bool:
    """Whether the field leaves every sampler on that befit has (`infill` apart, which is off by default)."""
    if not isinstance(samplers, str | list | None) or not all(isinstance(one, str) for one in samplers or ()):
        return False
    on = chain(samplers)
    return set(CHAIN[1:]) <= set(on) and "infill" not in on
