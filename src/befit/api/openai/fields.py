"""Which request fields befit honours, refuses or lets pass, and how each is checked.

A field is in one of four groups:
- declared in `types.py` for the endpoint: honoured (`UNSUPPORTED` also names some that only the other one honours);
- `HINTS`: about bookkeeping or speed, with no effect on what is generated: accepted;
- `UNSUPPORTED`: known to change the output and not available: accepted only with a value that asks for nothing,
  otherwise 400 naming the field;
- known to nobody: accepted, named in the `x-befit-ignored-fields` response header and in a debug log line.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from typing import Any

from befit.errors import UnsupportedField

log = logging.getLogger(__name__)

IGNORED_HEADER = "x-befit-ignored-fields"
_MAX_LISTED = 20

HINTS = frozenset(
    {
        "metadata",
        "parallel_tool_calls",
        "prediction",
        "prompt_cache_key",
        "prompt_cache_retention",
        "safety_identifier",
        "session_id",
        "user",
    }
)


def _empty(value: Any) -> bool:
    return value in (None, "", [], {}, False)


def _one_of(*values: Any) -> Callable[[Any], bool]:
    return lambda value: value is None or value in values


def _text_format(value: Any) -> bool:
    return value is None or (isinstance(value, dict) and value.get("type") == "text")


UNSUPPORTED: Mapping[str, Callable[[Any], bool]] = {
    "allowed_token_ids": _empty,
    "audio": _empty,
    "best_of": _one_of(1),
    "chat_template": _empty,
    "documents": _empty,
    "early_stopping": _empty,
    "echo": _empty,
    "function_call": _one_of("none", "auto"),
    "functions": _empty,
    "guided_choice": _empty,
    "guided_grammar": _empty,
    "guided_json": _empty,
    "guided_regex": _empty,
    "kv_transfer_params": _empty,
    "include_obfuscation": _empty,
    "length_penalty": _one_of(1),
    "logits_processors": _empty,
    "logprob_token_ids": _empty,
    "max_completion_tokens": _empty,
    "mm_processor_kwargs": _empty,
    "modalities": lambda value: value is None or value == ["text"],
    "prompt_embeds": _empty,
    "reasoning_effort": _one_of("none"),
    "repetition_detection": _empty,
    "response_format": _text_format,
    "service_tier": _one_of("auto", "default"),
    "spaces_between_special_tokens": _one_of(True),
    "store": _empty,
    "structural_tag": _empty,
    "structured_outputs": _empty,
    "suffix": _empty,
    "thinking_token_budget": _empty,
    "tool_choice": _one_of("none", "auto"),
    "tools": _empty,
    "top_logprobs": _one_of(0),
    "truncate_prompt_tokens": _empty,
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
) -> list[str]:
    """Sort the undeclared fields of a request (or of the object `inside` it); returns the names that nobody knows.

    hints and unsupported: another protocol's. Raises UnsupportedField for the first field whose value asks for
    something befit does not do.
    """
    unknown = []
    for name, value in extra.items():
        if name in hints:
            continue
        harmless = unsupported.get(name)
        if harmless is None:
            unknown.append(inside + name)
        elif not harmless(value):
            shown = repr(value)
            shown = shown if len(shown) <= 60 else shown[:60] + "…"
            raise UnsupportedField(f"{inside}{name} ({shown}) is not supported here; leave it out.", inside + name)
    if unknown:
        log.debug("fields ignored: %s", unknown)
    return unknown


def ignored_header(unknown: list[str]) -> dict[str, str]:
    """The response header that names ignored fields, safe to send whatever the names hold."""
    if not unknown:
        return {}
    names = [re.sub(r"[^A-Za-z0-9_.-]", "?", name[:64]) for name in unknown[:_MAX_LISTED]]
    if len(unknown) > _MAX_LISTED:
        names.append(f"and {len(unknown) - _MAX_LISTED} more")
    return {IGNORED_HEADER: ", ".join(names)}
