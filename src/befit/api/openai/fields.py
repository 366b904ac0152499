"""Which request fields befit honours, refuses or lets pass, and how each is checked.

A field is in one of four groups:
- declared in `types.py` for the endpoint: honoured (`UNSUPPORTED` also names some that only the other one honours);
- `HINTS`: about bookkeeping or speed, with no effect on what is generated: accepted, and named in the
  `x-befit-ignored-fields` response header;
- `UNSUPPORTED`: known to change the output and not available: accepted only with a value that asks for nothing,
  otherwise 400 naming the field;
- known to nobody: 400 naming the field, and the one that may have been meant.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from difflib import get_close_matches
from typing import Any

from befit.api.llamacpp import fields as llamacpp
from befit.errors import UnsupportedField

IGNORED_HEADER = "x-befit-ignored-fields"

HINTS = frozenset(
    {
        "cache_prompt",
        "keep_alive",
        "metadata",
        "parallel_tool_calls",
        "prediction",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "session_id",
        "repeat_last_n",
        "user",
    }
    | llamacpp.SHAPES
)


def _empty(value: Any) -> bool:
    return value in (None, "", [], {}, False)


def _one_of(*values: Any) -> Callable[[Any], bool]:
    return lambda value: value is None or value in values


UNSUPPORTED: Mapping[str, Callable[[Any], bool]] = {
    **llamacpp.SAMPLERS,
    "repeat_penalty": _one_of(1),
    "samplers": llamacpp.whole_chain,
    "timings_per_token": _empty,
    "access_programs": _empty,
    "audio": _empty,
    "best_of": _one_of(1),
    "chat_template": _empty,
    "context_management": _empty,
    "conversation": _empty,
    "documents": _empty,
    "early_stopping": _empty,
    "echo": _empty,
    "function_call": _one_of("none", "auto"),
    "functions": _empty,
    "guided_decoding_backend": _one_of("auto", "guidance"),
    "kv_transfer_params": _empty,
    "image": _empty,
    "include_obfuscation": _empty,
    "length_penalty": _one_of(1),
    "logits_processors": _empty,
    "logprob_token_ids": _empty,
    "max_completion_tokens": _empty,
    "mm_processor_kwargs": _empty,
    "modalities": lambda value: value is None or value == ["text"],
    "moderation": _empty,
    "prompt": _empty,
    "prompt_embeds": _empty,
    "reasoning_effort": _one_of("none"),
    "repetition_detection": _empty,
    "service_tier": _one_of("auto", "default"),
    "spaces_between_special_tokens": _one_of(True),
    "store": _empty,
    "structural_tag": _empty,
    "suffix": _empty,
    "thinking_token_budget": _empty,
    "tool_choice": _one_of("none", "auto"),
    "tools": _empty,
    "top_logprobs": _one_of(0),
    "use_beam_search": _empty,
    "verbosity": _one_of("medium"),
    "vllm_xargs": _empty,
    "web_search_options": _empty,
}


def check_extra(
    extra: Mapping[str, Any],
    inside: str = "",
    *,
    hints: frozenset[str] = HINTS,
    unsupported: Mapping[str, Callable[[Any], bool]] = UNSUPPORTED,
    known: Collection[str] = (),
) -> list[str]:
    """Sort the undeclared fields of a request (or of the object `inside` it); returns the hints that were given.

    hints and unsupported: another protocol's. known: the declared fields, to propose one for a name that nobody knows.
    Raises UnsupportedField for the first field that is unknown, or whose value asks for something befit does not do.
    """
    given = []
    for name, value in extra.items():
        if name in hints:
            if value is not None:
                given.append(inside + name)
            continue
        harmless = unsupported.get(name)
        if harmless is None:
            shown = name if len(name) <= 60 else name[:60] + "…"
            near = get_close_matches(name[:60], known, 1)
            advice = f"did you mean {near[0]}?" if near else "leave it out."
            raise UnsupportedField(f"{inside}{shown} is not a field of this request; {advice}", inside + shown)
        if not harmless(value):
            shown = repr(value)
            shown = shown if len(shown) <= 60 else shown[:60] + "…"
            raise UnsupportedField(f"{inside}{name} ({shown}) is not supported here; leave it out.", inside + name)
    return given


def ignored_header(hints: list[str]) -> dict[str, str]:
    """The response header that names fields without effect."""
    return {IGNORED_HEADER: ", ".join(hints)} if hints else {}
