"""The structure that a request wants of its output: `response_format` and the fields that say the same otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from befit.api.reasoning import ReasoningFormat
from befit.errors import InvalidRequest, UnsupportedField
from befit.structure import Structure, choice_text, schema_text

_OBJECT: Mapping[str, Any] = {"type": "object"}
FIELDS = (
    "response_format",
    "structured_outputs",
    "guided_json",
    "guided_regex",
    "guided_choice",
    "guided_grammar",
    "json_schema",
    "grammar",
)


def wanted_structure(fields: Mapping[str, Any]) -> Structure | None:
    """What the `FIELDS` of a request ask for. Raises InvalidRequest for two that ask for something."""
    whitespace = fields.get("guided_whitespace_pattern")
    found: dict[str, Structure] = {}
    for name in FIELDS:
        value = fields.get(name)
        if value is None:
            continue
        if name == "response_format":
            structure = _response_format(value)
        elif name == "structured_outputs":
            structure = _structured_outputs(value)
        else:
            structure = _structure(name.removeprefix("guided_"), value, name, whitespace)
        if structure is not None:
            found[name] = structure
    if len(found) > 1:
        raise InvalidRequest(f"{' and '.join(found)} both say what the output must be; send one.", next(iter(found)))
    return next(iter(found.values()), None)


def _structure(kind: str, value: Any, param: str, whitespace: str | None = None) -> Structure | None:
    if kind in ("json", "json_schema"):
        return Structure("json", schema_text(value, whitespace=whitespace, param=param), param=param)
    if kind == "json_object":
        return _structure("json", _OBJECT, param, whitespace) if value else None
    if kind == "choice":
        return Structure("grammar", choice_text(value, param=param), param=param)
    if not isinstance(value, str) or not value:
        raise InvalidRequest(f"{param} must be a string that is not empty.", param)
    return Structure("regex" if kind == "regex" else "grammar", value, param=param)


def _response_format(value: Any) -> Structure | None:
    kind = value.get("type") if isinstance(value, Mapping) else None
    if kind == "text":
        return None
    if kind == "json_object":  # `value` is TGI's, which the Hugging Face hub's client makes of a schema
        return _structure("json", value.get("schema") or value.get("value") or _OBJECT, "response_format")
    if kind in ("json", "regex") and value.get("value") is not None:
        return _structure(kind, value["value"], "response_format")
    if kind == "json_schema":
        inner = value.get("json_schema", value)
        if not isinstance(inner, Mapping) or inner.get("schema") is None:
            raise InvalidRequest(
                "response_format.json_schema.schema is missing; send a JSON schema.", "response_format"
            )
        return _structure("json", inner["schema"], "response_format")
    raise UnsupportedField(
        f"response_format.type is {str(kind)[:60]!r}; use text, json_object or json_schema.", "response_format"
    )


def _structured_outputs(value: Any) -> Structure | None:
    """vLLM's field: one of json, regex, choice, grammar and json_object, and options of whitespace."""
    if not isinstance(value, Mapping):
        raise InvalidRequest("structured_outputs must be an object.", "structured_outputs")
    given = {name: one for name, one in value.items() if one not in (None, False)}
    whitespace = given.pop("whitespace_pattern", None)
    if given.pop("disable_any_whitespace", False):
        whitespace = ""
    if not isinstance(given.pop("close_at_limit", True), bool):
        raise InvalidRequest("structured_outputs.close_at_limit must be true or false.", "structured_outputs")
    given.pop("disable_fallback", None)  # there is one implementation, and nothing to fall back to
    kinds = given.keys() & {"json", "regex", "choice", "grammar", "json_object"}
    unknown = sorted(given.keys() - kinds)
    if unknown:
        raise UnsupportedField(f"structured_outputs.{unknown[0][:60]} is not supported here.", "structured_outputs")
    if len(kinds) > 1:
        raise InvalidRequest(f"structured_outputs has {' and '.join(sorted(kinds))}; send one.", "structured_outputs")
    for kind in kinds:
        return _structure(kind, given[kind], "structured_outputs", whitespace)
    return None


def behind_reasoning(structure: Structure, reasoning: ReasoningFormat, *, opened: bool) -> Structure:
    """The structure for a model that may think before it answers: it holds for the answer.

    opened: the prompt has begun the thoughts; otherwise the model begins them itself, or answers at once.
    """
    if structure.waits:
        return structure
    opening = "" if opened else reasoning.opening
    if structure.kind != "json":
        return replace(structure, after=reasoning.closing, opening=opening)
    # Between thoughts and answer these models write an empty line.
    text = f"%llguidance {{}}\nstart: /\\n{{0,2}}/ answer\nanswer: %json {structure.text}"
    return replace(structure, kind="grammar", text=text, after=reasoning.closing, opening=opening)
