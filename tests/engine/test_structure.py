"""Outputs that must have a structure have it, whatever the model would rather write."""

from __future__ import annotations

import json
import re
import threading
from random import Random
from types import SimpleNamespace

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from befit.engine.core import Engine
from befit.engine.load import LoadedModel
from befit.engine.outputs import CompletionOutput
from befit.errors import InvalidRequest, UnsupportedField
from befit.sampling import SamplingParams
from befit.structure import Structure, choice_text, schema_text
from support.confined import CONTROL, END, PIECES, byte_model
from support.schemas import random_schema

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
FORMATS = jsonschema.FormatChecker([name for name in jsonschema.FormatChecker.checkers if name != "time"])
"""Without that of `time`, which refuses the offsets that RFC 3339 demands."""


def json_structure(schema: object, **where: object) -> Structure:
    return Structure("json", schema_text(schema, param="schema"), **where)


@pytest.fixture(scope="module", params=["reference", "native"])
def model(request: pytest.FixtureRequest) -> LoadedModel:
    return byte_model(request.param)


@pytest.fixture(scope="module")
def reference() -> LoadedModel:
    return byte_model()


def outputs(model: LoadedModel, *many: SamplingParams, prompt: str = "say ") -> list[CompletionOutput]:
    """What the requests give, all of them in one batch."""
    engine = Engine(model)
    requests = [engine.add_request(list(prompt.encode()), params) for params in many]
    found = {request.id: CompletionOutput(0) for request in requests}
    while engine.has_work:
        for request, delta in engine.step():
            output = found[request.id]
            output.text += delta.text
            output.token_ids += delta.token_ids
            output.finish_reason = delta.finish_reason or output.finish_reason
            output.error = delta.error or output.error
    engine.scheduler.check_integrity()
    return [found[request.id] for request in requests]


def hot(structure: Structure | None, seed: int = 0, **more: object) -> SamplingParams:
    return SamplingParams(**{"temperature": 1.0, "seed": seed, "max_tokens": 300, "structure": structure, **more})


def test_json_by_a_schema(model: LoadedModel) -> None:
    for output in outputs(model, *(hot(json_structure(PERSON), seed) for seed in range(8))):
        assert output.finish_reason == "stop"
        jsonschema.validate(json.loads(output.text), PERSON)


@pytest.mark.parametrize(
    ("known", "longest"),
    [
        ("email", "a" * 60 + "@" + ".".join(["b" * 60] * 3) + ".example"),
        ("time", "10:14:08.123456789+01:00"),
        ("date-time", "2021-06-08T10:14:08.123456789+01:00"),
    ],
)
def test_formats_have_an_end(reference: LoadedModel, known: str, longest: str) -> None:
    structure = json_structure({"type": "object", "properties": {"format": {"type": "string", "format": known}}})
    grammar = reference.grammars.start(structure)
    ends = [grammar.push(token) for token in json.dumps({"format": longest}).encode()]
    assert ends[-1]
    grammar = reference.grammars.start(structure)
    endless = longest.replace("a", "a" * 9) if known == "email" else longest.replace("9", "9" * 9)
    with pytest.raises(InvalidRequest):
        assert not [grammar.push(token) for token in json.dumps({"format": endless}).encode()]


def test_what_the_loop_guard_cuts_is_not_whole(model: LoadedModel) -> None:
    """`stop` would say that it can be parsed."""
    structure = Structure("regex", "(abc){90}")
    whole, cut = outputs(model, hot(structure), hot(structure, loop_guard=True))
    assert (whole.finish_reason, whole.text) == ("stop", "abc" * 90)
    assert cut.finish_reason == "length"
    assert len(cut.text) < 200


def test_greedy_and_free_requests_beside_it(model: LoadedModel) -> None:
    params = [hot(json_structure(PERSON), temperature=0), hot(None, 1, max_tokens=20), hot(None, 2, max_tokens=20)]
    confined, *free = outputs(model, *params)
    jsonschema.validate(json.loads(confined.text), PERSON)
    alone = [outputs(model, one)[0].token_ids for one in params[1:]]
    assert [output.token_ids for output in free] == alone, "masks of one request reach no other"


def test_regex_choice_and_grammar(model: LoadedModel) -> None:
    choices = ["yes", 'say "no"', "naïve"]
    regex, choice, gbnf, lark = outputs(
        model,
        hot(Structure("regex", r"\d{3}-[a-f]{2}")),
        hot(Structure("grammar", choice_text(choices, param="choice"))),
        hot(Structure("grammar", 'root ::= "(" item ("," item)* ")"\nitem ::= [0-9] | root')),
        hot(Structure("grammar", 'start: "a" start "b" | "c"')),
    )
    assert re.fullmatch(r"\d{3}-[a-f]{2}", regex.text)
    assert choice.text in choices
    assert set(gbnf.text) <= set("(),0123456789")
    assert re.fullmatch("(a*)c(b*)", lark.text)
    assert lark.text.count("a") == lark.text.count("b")


def test_the_output_ends_when_nothing_can_follow(model: LoadedModel) -> None:
    [output] = outputs(model, hot(Structure("regex", "abc"), ignore_eos=True))
    assert (output.text, output.finish_reason, len(output.token_ids)) == ("abc", "stop", 3)


def test_a_cut_output_says_so(model: LoadedModel) -> None:
    [output] = outputs(model, hot(Structure("regex", "a{50}"), max_tokens=5))
    assert (output.text, output.finish_reason) == ("aaaaa", "length")


def test_control_tokens_and_padding_are_never_part_of_it(model: LoadedModel) -> None:
    for output in outputs(model, *(hot(Structure("regex", r"(.|\n){40}"), seed, max_tokens=80) for seed in range(8))):
        assert not {CONTROL, *range(len(PIECES), len(PIECES) + 99)}.intersection(output.token_ids)


def test_several_continuations_have_their_own_state(reference: LoadedModel) -> None:
    engine = Engine(reference)
    engine.add_request([1, 2], hot(json_structure(PERSON), n=3))
    texts = ["", "", ""]
    while engine.has_work:
        for _, delta in engine.step():
            texts[delta.index] += delta.text
    assert len(set(texts)) == 3
    for text in texts:
        jsonschema.validate(json.loads(text), PERSON)


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32))
def test_any_schema(reference: LoadedModel, seed: int) -> None:
    schema = random_schema(Random(seed))
    [output] = outputs(reference, hot(json_structure(schema), seed, max_tokens=200))
    if output.finish_reason != "length":
        assert output.finish_reason == "stop", output.error
        jsonschema.Draft202012Validator(schema, format_checker=FORMATS).validate(json.loads(output.text))


REPEATING = {"type": "array", "items": {"const": {"key": "some value"}}, "minItems": 4, "maxItems": 8}


@pytest.mark.parametrize("structure", [json_structure(REPEATING), json_structure(PERSON)], ids=["repeating", "person"])
def test_drafts_change_nothing(structure: Structure) -> None:
    """Every row behind a draft has the mask of what the draft leads to."""
    plain, drafted = byte_model(), byte_model(speculation="lookup")
    for seed in range(4):
        params = hot(structure, seed, max_tokens=400)
        assert outputs(drafted, params)[0].token_ids == outputs(plain, params)[0].token_ids
    engine = Engine(drafted)
    engine.add_request(list(b"x"), hot(json_structure(REPEATING), max_tokens=400))
    while engine.has_work:
        engine.step()
    assert engine.speculator.accepted_tokens > 20


NUMBER = {
    "type": "object",
    "properties": {"n": {"enum": [1, 22, 333]}},
    "required": ["n"],
    "additionalProperties": False,
}
CALL = json_structure(NUMBER, after="<call>", again=True)


def test_free_until_a_marker_and_again_behind(reference: LoadedModel) -> None:
    """The model is made to write the marker by a bias; what follows it is the structure, then text is free again."""
    bias = {PIECES.index(b"<call>"): 8.0, END: -100.0}
    seen = 0
    for seed in range(6):
        [output] = outputs(reference, hot(CALL, seed, logit_bias=bias))
        calls = output.text.split("<call>")[1:-1]  # the last may be cut
        assert all(re.match(r'\{\s*"n"\s*:\s*(1|22|333)\s*\}', call) for call in calls), output.text
        seen += len(calls)
    assert seen > 5


@pytest.mark.parametrize(("rest", "active"), [(b"", True), (b'{"', True), (b"x", False)])
def test_a_token_may_reach_beyond_the_marker(reference: LoadedModel, rest: bytes, active: bool) -> None:
    grammar = reference.grammars.start(json_structure(PERSON, after="::", again=True))
    grammar._bytes = lambda token, skip_special: b"a:" if token == 0 else b":" + rest
    assert not grammar.push(0)
    assert not grammar.active
    assert not grammar.push(1)
    assert grammar.active is active


def test_a_pattern_may_begin_it_too(reference: LoadedModel) -> None:
    """What the pattern's group holds decides what follows; a token of the marker says that it was the marker."""
    text = 'start: "\\u0001" "m" | "\\u0002a\\n" "1" | "\\u0002b\\n" "2"'
    structure = Structure("grammar", text, after="<<", begun=r"\s{0,9}(a|b) is ", again=True)
    grammar = reference.grammars.start(structure)
    for words, active in [(b" b is ", True), (b"2", False), (b" a i", False), (b"s ", True)]:
        assert not any(grammar.push(token) for token in words)
        assert grammar.active is active, words
    with pytest.raises(InvalidRequest):
        grammar.push(ord("2"))
    other = reference.grammars.start(structure)
    assert other.admit(list(b"b is 2")) == 4
    assert not any(other.push(token) for token in b"so b is 2" + b"x" * 2000 + b"b is ")
    assert not other.active, "not at the beginning"
    assert not any(other.push(token) for token in b"<<")
    assert other.active
    assert other.admit(list(b"m")) == 1
    assert other.admit(list(b"1")) == 0


def test_an_opening_token_frees_the_output_until_the_marker(reference: LoadedModel) -> None:
    """As models that may think first: the structure holds for the answer, with or without thoughts."""
    opening = PIECES.index(b"<call>")
    structure = Structure("regex", "yes|no", after="!", opening="<call>")
    [answer] = outputs(reference, hot(structure, logit_bias={opening: -100.0}))
    assert answer.text in ("yes", "no")
    [either] = outputs(reference, hot(structure, logit_bias={opening: 100.0}, max_tokens=1))
    assert either.text == "<call>"
    thinking = reference.grammars.start(structure)
    states = [(thinking.push(token), thinking.active) for token in [opening, *b"hm!ye", ord("s")]]
    assert states == [(False, False)] * 3 + [(False, True)] * 3 + [(True, True)]


def test_drafts_stop_before_a_marker(reference: LoadedModel) -> None:
    grammar = reference.grammars.start(CALL)
    marker = PIECES.index(b"<call>")
    assert grammar.admit([97, 98]) == 2
    assert grammar.admit([97, marker, 98]) == 1
    grammar.push(ord("<"))
    assert grammar.admit(list(b"call>x")) == 4


@pytest.mark.parametrize(
    ("structure", "kind", "names"),
    [
        (json_structure({"type": "array", "uniqueItems": True}), UnsupportedField, "uniqueItems"),
        (json_structure({"properties": {"a": {"not": {}}}, "type": "object"}), UnsupportedField, "not"),
        (json_structure({"oneOf": [{"type": "integer"}, {"minimum": 3}]}), UnsupportedField, "oneOf"),
        (json_structure({"type": "string", "format": "colour"}), UnsupportedField, "colour"),
        (json_structure({"type": "strange"}), InvalidRequest, "strange"),
        (json_structure({"enum": []}), InvalidRequest, "nsatisfiable"),
        (json_structure(False), InvalidRequest, "not"),
        (json_structure({"$ref": "http://example.com/x"}), InvalidRequest, "example.com"),
        (Structure("regex", "(?=a)b"), UnsupportedField, "look-around"),
        (Structure("regex", "[", param="guided_regex"), InvalidRequest, "guided_regex"),
        (Structure("grammar", "start: nothing"), InvalidRequest, "nothing"),
        (Structure("grammar", "root ::= nothing"), InvalidRequest, "nothing"),
        (Structure("grammar", "no grammar at all"), InvalidRequest, "GBNF"),
        (Structure("grammar", "start: start"), InvalidRequest, "nothing is allowed"),
    ],
)
def test_what_cannot_be_used_is_refused(
    reference: LoadedModel, structure: Structure, kind: type[InvalidRequest], names: str
) -> None:
    with pytest.raises(kind, match=names) as raised:
        reference.grammars.start(structure)
    assert raised.value.param == structure.param


DOUBLING = "".join(f"r{i}: r{i + 1} r{i + 1}\n" for i in range(40))
HOSTILE = {
    "nested": Structure("json", '{"type":"array","items":' * 5000 + "{}" + "}" * 5000),
    "references": json_structure({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}),
    "product": json_structure(
        {"allOf": [{"anyOf": [{"properties": {f"{c}{i}": {}}} for c in "ab"]} for i in range(16)], "type": "object"}
    ),
    "enum": json_structure({"enum": [f"some long value {i}" for i in range(30000)]}),
    "optional": Structure("regex", "(a?){300}a{300}"),
    "backtracking": Structure("regex", "((a+)+)+$"),
    "states": Structure("regex", "(.*a.{20}){5}"),
    "parentheses": Structure("regex", "(" * 30000 + ")" * 30000),
    "rules": Structure("grammar", f"start: r0\n{DOUBLING}r40: \"a\""),
    "ambiguous": Structure("grammar", 'start: a*\na: b*\nb: "x"* | a b'),
    "gbnf": Structure("grammar", "root ::= " + "(" * 10000 + '"a"' + ")" * 10000),
    "long gbnf": Structure("grammar", "root ::= " + '"a" ' * 10000),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_structures_end_soon_and_hurt_nobody(reference: LoadedModel, name: str) -> None:
    """Refused at once, or the request alone fails or is cut; the one beside it is as it would be alone."""
    neighbour = hot(None, 5, max_tokens=30)
    try:
        hurt, free = outputs(reference, hot(HOSTILE[name], max_tokens=30), neighbour)
    except InvalidRequest:
        return
    assert hurt.finish_reason in ("stop", "length", "error")
    assert hurt.error is None or isinstance(hurt.error, InvalidRequest)
    assert free.token_ids == outputs(reference, neighbour)[0].token_ids


@pytest.mark.parametrize(
    ("pattern", "fits"),
    [
        ("((a{1000}){1000}){1000}", False),
        ("(a{300}|b{300}){300}", False),
        ("x{99999999}", False),
        (r"\({60}[{(]{5,}\d{3}-(?:ab){2,40}", True),
        ("a{50000}b{40000}", True),
        ("((a{100}){100}){11}", False),
    ],
)
def test_repetitions_that_multiply_are_refused(pattern: str, fits: bool) -> None:
    for make in (
        lambda: Structure("regex", pattern),
        lambda: json_structure({"items": {"pattern": pattern}}),
        lambda: Structure("grammar", f"start: A+\nA: /{pattern}/"),
    ):
        if fits:
            make()
        else:
            with pytest.raises(InvalidRequest, match="repeat less"):
                make()


def test_a_mask_that_takes_too_long_fails_its_request_alone(reference: LoadedModel) -> None:
    slow = reference.grammars.start(Structure("regex", "a*"))
    slow._matcher = SimpleNamespace(
        unsafe_compute_mask_ptr=lambda address, size: sum(range(8_000_000)), is_error=lambda: False
    )
    with pytest.raises(InvalidRequest, match="too long"):
        slow.fill(np.zeros((1, 10), np.uint32), [])


def test_starting_does_not_wait_for_what_others_compile(
    reference: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = Structure("regex", "ready")
    reference.grammars.prepare(ready).result()
    begun, go_on = threading.Event(), threading.Event()
    compile_once = reference.grammars._compile
    monkeypatch.setattr(
        reference.grammars, "_compile", lambda one: begun.set() or (go_on.wait(20) and compile_once(one))
    )
    slow = reference.grammars.prepare(Structure("regex", "slow"))
    assert begun.wait(20)
    reference.grammars.start(ready)
    assert not slow.done()
    go_on.set()
    slow.result()


@pytest.mark.parametrize(("kind", "most"), [("json", 1 << 20), ("regex", 1 << 16), ("grammar", 1 << 20)])
def test_long_structures_are_refused(kind: str, most: int) -> None:
    with pytest.raises(InvalidRequest, match=str(most)):
        Structure(kind, "a" * (most + 1))


@pytest.mark.parametrize("number", [1e300, 2.5e-7, 2**60, 0.1234567890123456])
def test_numbers_that_would_lose_digits_are_refused(number: float) -> None:
    with pytest.raises(UnsupportedField, match="digits"):
        schema_text({"properties": {"a": {"enum": [1, number]}}}, param="schema")


def test_no_least_length_beside_a_structure() -> None:
    with pytest.raises(InvalidRequest, match="min_tokens"):
        hot(json_structure(PERSON), min_tokens=3)


def test_bans_that_leave_nothing_fail_that_request_alone(reference: LoadedModel) -> None:
    banned, free = outputs(
        reference, hot(Structure("regex", "abc"), logit_bias={}, bad_words=["b"]), hot(None, 1, max_tokens=5)
    )
    assert banned.finish_reason == "error"
    assert free.finish_reason in ("stop", "length")


def test_a_structure_is_compiled_once_and_renewed(reference: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[Structure] = []
    compile_once = reference.grammars._compile
    monkeypatch.setattr(reference.grammars, "_compile", lambda one: compiled.append(one) or compile_once(one))
    structure = Structure("regex", "once and once only")
    reference.grammars.prepare(structure).result()
    for _ in range(64):
        reference.grammars.start(structure)
    assert len(compiled) == 1
    reference.grammars.start(structure)
    assert len(compiled) == 2
