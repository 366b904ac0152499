"""Any JSON as a schema, any text as a pattern or grammar: it compiles or is refused by a typed error, soon."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from befit.engine.load import LoadedModel
from befit.errors import InvalidRequest
from befit.structure import Structure, schema_text
from support.confined import byte_model

KEYWORDS = [
    "type", "properties", "required", "items", "prefixItems", "enum", "const", "anyOf", "allOf", "oneOf", "not", "$ref",
    "$defs", "minimum", "maximum", "multipleOf", "minLength", "maxLength", "pattern", "format", "minItems", "maxItems",
    "additionalProperties", "patternProperties", "if", "then", "propertyNames", "definitions", "x",
]  # fmt: skip
VALUES = ["string", "object", "array", "integer", "#", "#/$defs/x", "#/", "(a+)+$", "[", "date-time", "", "\0"]
schemas: st.SearchStrategy[Any] = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**65), 2**65),
        st.floats(allow_nan=False, allow_infinity=False),
        st.sampled_from(VALUES),
        st.text(max_size=4),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(KEYWORDS), inner, min_size=1, max_size=4)
    ),
    max_leaves=12,
)


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return byte_model()


def blamed(model: LoadedModel, structure: Structure) -> str | None:
    """The field that a refusal names, or what the structure came from where it compiles."""
    try:
        model.grammars.start(structure)
    except InvalidRequest as error:
        return error.param
    return structure.param


@settings(max_examples=80, deadline=10_000)
@given(st.dictionaries(st.sampled_from(KEYWORDS), schemas, max_size=4))
def test_any_schema_compiles_or_is_refused(model: LoadedModel, schema: dict[str, Any]) -> None:
    try:
        text = schema_text(schema, param="schema")
    except InvalidRequest:
        return
    assert blamed(model, Structure("json", text, param="schema")) == "schema"


@settings(max_examples=60, deadline=10_000)
@given(st.sampled_from(["regex", "grammar"]), st.text('ab()[]{}|*+?\\^$.-,0159 "=:/\n', max_size=24))
def test_any_pattern_or_grammar_compiles_or_is_refused(model: LoadedModel, kind: Any, text: str) -> None:
    assert blamed(model, Structure(kind, text, param="it")) == "it"


@pytest.mark.parametrize("kind", ["regex", "grammar"])
def test_half_a_surrogate_pair_is_refused(kind: Any) -> None:
    with pytest.raises(InvalidRequest, match="surrogate"):
        Structure(kind, 'root ::= "\ud800"', param="it")


def test_a_schema_that_is_too_long_is_not_walked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("befit.structure._check_schema", None)
    with pytest.raises(InvalidRequest, match="a structure may have 1048576"):
        schema_text({"enum": [1] * 400_000}, param="schema")
