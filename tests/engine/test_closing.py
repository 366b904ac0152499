"""An output that must have a structure is led to its end in time, whatever the model would rather write."""

from __future__ import annotations

import json
from random import Random

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from befit.engine.core import Engine
from befit.engine.load import LoadedModel
from befit.engine.outputs import CLOSED_STOP_REASON, CompletionOutput
from befit.sampling import SamplingParams
from befit.structure import Structure, schema_text
from support.confined import byte_model
from support.schemas import random_schema

ENDLESS = {"type": "array", "items": {"type": "string", "minLength": 3}, "minItems": 2}
TREE = {
    "type": "object",
    "properties": {
        "left": {"anyOf": [{"$ref": "#"}, {"type": "null"}]},
        "names": {"type": "object", "additionalProperties": {"$ref": "#"}},
        "value": {"enum": ["a long value that takes its time", "another one that does so too"]},
    },
    "required": ["left", "value"],
}
FORMATS = jsonschema.FormatChecker([name for name in jsonschema.FormatChecker.checkers if name != "time"])


def json_structure(schema: object, **where: object) -> Structure:
    return Structure("json", schema_text(schema, param="schema"), **where)


def hot(structure: Structure, seed: int = 0, **more: object) -> SamplingParams:
    return SamplingParams(**{"temperature": 1.0, "seed": seed, "max_tokens": 100, "structure": structure, **more})


@pytest.fixture(scope="module", params=["reference", "native"])
def model(request: pytest.FixtureRequest) -> LoadedModel:
    return byte_model(request.param)


@pytest.fixture(scope="module")
def reference() -> LoadedModel:
    return byte_model()


def outputs(engine: Engine, *many: SamplingParams, prompt: bytes = b"say ") -> list[CompletionOutput]:
    requests = [engine.add_request(list(prompt), params) for params in many]
    found = {request.id: [CompletionOutput(at) for at in range(request.params.n)] for request in requests}
    while engine.has_work:
        for request, delta in engine.step():
            output = found[request.id][delta.index]
            output.text += delta.text
            output.token_ids += delta.token_ids
            output.logprobs = (output.logprobs or []) + (delta.logprobs or [])
            output.finish_reason = delta.finish_reason or output.finish_reason
            output.stop_reason = delta.stop_reason or output.stop_reason
            output.error = delta.error or output.error
    engine.scheduler.check_integrity()
    return [output for request in requests for output in found[request.id]]


def check(output: CompletionOutput, schema: object, most: int) -> None:
    assert output.finish_reason == "stop", (output.finish_reason, output.error, output.text)
    assert len(output.token_ids) <= most
    jsonschema.Draft202012Validator(schema, format_checker=FORMATS).validate(json.loads(output.text))


@pytest.mark.parametrize("schema", [ENDLESS, TREE, {"type": "object"}], ids=["strings", "tree", "anything"])
def test_what_has_no_end_ends_in_time(model: LoadedModel, schema: object) -> None:
    engine = Engine(model)
    found = outputs(engine, *(hot(json_structure(schema), seed) for seed in range(6)))
    for output in found:
        check(output, schema, 100)
    closed = [output for output in found if output.stop_reason == CLOSED_STOP_REASON]
    assert len(closed) == engine.stats().closed_total
    assert closed


@pytest.mark.slow
def test_every_limit_that_is_long_enough_is_enough(reference: LoadedModel) -> None:
    engine = Engine(reference)
    compiled = reference.grammars._prepared(json_structure(TREE))
    least = len(compiled.way)
    for most in range(least, least + 40):
        [output] = outputs(engine, hot(json_structure(TREE), most, max_tokens=most))
        check(output, TREE, most)
    [cut] = outputs(engine, hot(json_structure(TREE), max_tokens=least // 2))
    assert (cut.finish_reason, cut.stop_reason) == ("length", None)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), more=st.integers(0, 80))
def test_any_schema_and_any_limit(reference: LoadedModel, seed: int, more: int) -> None:
    schema = random_schema(Random(seed))
    way = reference.grammars._prepared(json_structure(schema)).way
    assert way is not None
    most = max(1, len(way) + more)
    [output] = outputs(Engine(reference), hot(json_structure(schema), seed, max_tokens=min(most, 500)))
    if most <= 500:
        check(output, schema, most)


def test_it_stays_free_until_the_end_has_to_come(reference: LoadedModel) -> None:
    """What was written before closing is what would have been written without a limit."""
    engine = Engine(reference)
    short, long = outputs(engine, hot(json_structure(ENDLESS)), hot(json_structure(ENDLESS), max_tokens=300))
    common = next(i for i, (a, b) in enumerate(zip(short.token_ids, long.token_ids, strict=False)) if a != b)
    assert common > 85


def test_the_same_with_drafts_batches_preemption_and_small_steps() -> None:
    seeds = range(4)
    params = [hot(json_structure(TREE), seed, logprobs=0) for seed in seeds]
    alone = [outputs(Engine(byte_model()), one)[0] for one in params]
    for changed in (
        {"speculation": "lookup"},
        {"n_blocks": 16, "ctx": 128},
        {"token_budget": 8, "max_seqs": 2},
        {"prefix_cache": False},
    ):
        engine = Engine(byte_model(**changed))
        for output, expected in zip(outputs(engine, *params), alone, strict=True):
            assert output.token_ids == expected.token_ids
            assert len(output.logprobs) == len(output.token_ids)


def test_every_continuation_is_closed(reference: LoadedModel) -> None:
    for output in outputs(Engine(reference), hot(json_structure(ENDLESS), n=3)):
        check(output, ENDLESS, 100)


def test_other_structures(reference: LoadedModel) -> None:
    engine = Engine(reference)
    regex, grammar, optional = outputs(
        engine,
        hot(Structure("regex", r"(\d\d,)+[a-z]{3}"), max_tokens=20),
        hot(Structure("grammar", 'start: "(" start ")" | "x" start? "y"'), max_tokens=20),
        hot(Structure("regex", "a(bbbbbbbb)?"), max_tokens=4),
    )
    assert regex.finish_reason == grammar.finish_reason == optional.finish_reason == "stop"
    assert regex.text[-3:].isalpha()
    assert grammar.text.count("(") == grammar.text.count(")")
    assert optional.text == "a"


def test_a_call_behind_free_text_is_closed(reference: LoadedModel) -> None:
    """The output ends there: what would follow is a sentence of a word or two."""
    numbers = {"type": "array", "items": {"type": "integer"}, "minItems": 9}
    structure = json_structure(numbers, after="a", again=True)
    found = outputs(Engine(reference), *(hot(structure, seed, max_tokens=400) for seed in range(8)))
    closed = [output for output in found if output.stop_reason == CLOSED_STOP_REASON]
    assert closed
    for output in closed:
        assert len(json.loads(output.text.rpartition("a")[2])) >= 9


def test_it_can_be_left_to_the_model(reference: LoadedModel) -> None:
    engine = Engine(reference)
    for more in ({"close_at_limit": False}, {"bad_words": ["qq"]}, {"allowed_token_ids": list(range(0x20, 0x7F))}):
        [output] = outputs(engine, hot(json_structure(ENDLESS), max_tokens=30, **more))
        assert (output.finish_reason, output.stop_reason) == ("length", None)


def test_a_structure_without_a_way_out_is_left_to_the_model(reference: LoadedModel) -> None:
    """Finding that out is bounded, and nobody looks again."""
    beyond = {"type": "string", "pattern": "^.*qz.*jx.*$"}
    assert reference.grammars._prepared(json_structure(beyond)).way is None
    [output] = outputs(Engine(reference), hot(json_structure(beyond), max_tokens=20))
    assert (output.finish_reason, output.stop_reason) == ("length", None)
