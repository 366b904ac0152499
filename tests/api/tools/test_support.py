"""What a model is told of tools, how its calls are confined, and how the format is chosen."""

from __future__ import annotations

from typing import Any

import pytest

from befit.api.chat import ChatTemplate
from befit.api.tools import formats
from befit.api.tools.formats import Tool
from befit.api.tools.request import tool_use
from befit.api.tools.support import ToolSupport
from befit.engine.grammar import Grammars
from befit.errors import ConfigError, InvalidRequest, UnsupportedField
from befit.structure import Structure, schema_text
from support.confined import PIECES, ByteTokenizer

ALL = [
    formats.HERMES,
    formats.LLAMA3,
    formats.PYTHONIC,
    formats.MISTRAL,
    formats.MISTRAL_NAMED,
    formats.DEEPSEEK,
    formats.DEEPSEEK_V31,
    formats.GEMMA,
    formats.JSON,
]
IDS = [f"{form.name}-{at}" for at, form in enumerate(ALL)]
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER = {"type": "function", "function": {"name": "weather", "description": "of a city", "parameters": CITY}}
NOW = {"type": "function", "function": {"name": "now"}}
CALLS = [("weather", '{"city": "Köln"}'), ("now", "{}")]
CHATML = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</{{ m.role }}>\n{% endfor %}"


class Vocabulary(ByteTokenizer):
    """Bytes and some control tokens."""

    def __init__(self, *control: str) -> None:
        self._control = control
        self.vocab_size = len(PIECES) + len(control)
        self.control_tokens = {spelling: len(PIECES) + at for at, spelling in enumerate(control)}

    def token_id(self, spelling: str) -> int | None:
        return self.control_tokens.get(spelling, super().token_id(spelling))

    def token_bytes(self, token: int, *, skip_special: bool = True) -> bytes:
        if token < len(PIECES):
            return super().token_bytes(token, skip_special=skip_special)
        return b"" if skip_special else self._control[token - len(PIECES)].encode()

    def is_special(self, token: int) -> bool:
        return token >= len(PIECES) or super().is_special(token)

    def encode(self, text: str, *, add_special: bool = True, parse_special: bool = True) -> list[int]:
        for spelling, token in self.control_tokens.items() if parse_special else ():
            if spelling in text:
                before, _, after = text.partition(spelling)
                return [*self.encode(before), token, *self.encode(after)]
        return list(text.encode())


def support(template: str = CHATML, *control: str, name: str | None = None) -> ToolSupport:
    vocabulary: Any = Vocabulary(*control)
    return ToolSupport.of(ChatTemplate(template, vocabulary, source="a test"), vocabulary, name)


def accepts(structure: Structure, text: str, vocabulary: Any) -> bool:
    """Whether the text is a whole output of the structure."""
    grammar = Grammars(vocabulary, vocabulary.vocab_size).start(structure)
    done = [grammar.push(token) for token in vocabulary.encode(text)]
    return done[-1] or bool(grammar._matcher.is_accepting())


@pytest.mark.parametrize("form", ALL, ids=IDS)
@pytest.mark.parametrize("control", [False, True])
def test_the_grammar_is_of_what_the_format_writes(form: formats.ToolFormat, control: bool) -> None:
    """Also where the markers are control tokens."""
    vocabulary: Any = Vocabulary(*form.markers) if control else ByteTokenizer()
    use = tool_use([WEATHER, NOW], "required", None)
    assert use is not None
    made = ToolSupport(None, vocabulary, form, "")  # type: ignore[arg-type]
    structure = made.structure(use, None)
    assert structure is not None
    assert accepts(structure, form.write(CALLS), vocabulary)
    assert accepts(structure, form.write(CALLS[:1]), vocabulary)
    for wrong in ([("weather", "{}")], [("wether", '{"city": "Köln"}')], [("now", '{"x": 1}')]):
        with pytest.raises(InvalidRequest):
            accepts(structure, form.write(wrong), vocabulary)


@pytest.mark.parametrize("form", [form for form in ALL if form.trigger], ids=lambda form: form.name)
def test_behind_the_trigger_only_calls(form: formats.ToolFormat) -> None:
    vocabulary: Any = Vocabulary(*form.markers)
    use = tool_use([WEATHER, NOW], "auto", None)
    assert use is not None
    structure = ToolSupport(None, vocabulary, form, "").structure(use, None)  # type: ignore[arg-type]
    assert structure is not None
    grammar = Grammars(vocabulary, vocabulary.vocab_size).start(structure)
    text = "I think [so]. " + form.write(CALLS) + " And <that> is that."
    active = 0
    for token in vocabulary.encode(text):
        active += grammar.active
        assert not grammar.push(token), "the output goes on behind the calls"
    assert active > 20
    assert not grammar.active


@pytest.mark.parametrize("form", [form for form in ALL if form.bare], ids=lambda form: form.name)
@pytest.mark.parametrize("several", [True, False])
def test_bare_json_becomes_a_call_once_it_has_a_name(form: formats.ToolFormat, several: bool) -> None:
    vocabulary: Any = ByteTokenizer()
    use = tool_use([WEATHER, NOW], "auto", several)
    assert use is not None
    structure = ToolSupport(None, vocabulary, form, "").structure(use, None)  # type: ignore[arg-type]
    assert structure is not None
    grammar = Grammars(vocabulary, vocabulary.vocab_size).start(structure)
    opening = max(form.bare, key=len)
    for token in opening.encode() + b'{\n  "name": "weather",\n  "arguments":':
        assert not grammar.active
        assert not grammar.push(token)
    assert grammar.active
    assert not any(grammar.push(token) for token in b" {")
    assert [grammar.push(token) for token in b'"city": "x"}\n}'][-1] is not several
    assert not grammar.active or not several
    other = Grammars(vocabulary, vocabulary.vocab_size).start(structure)
    for token in b'{"name": "Bob", "arguments": {"x": 1}}{"name": "weather", "arguments": {':
        assert not other.push(token)
        assert not other.active


def test_only_one_call_where_no_more_are_wanted() -> None:
    made = support()
    for choice in ("required", {"type": "function", "function": {"name": "weather"}}):
        use = tool_use([WEATHER, NOW], choice, choice != "required" and None)
        assert use is not None
        structure = made.structure(use, None)
        assert structure is not None
        assert accepts(structure, made.form.write(CALLS[:1]), made.tokenizer)
        with pytest.raises(InvalidRequest):
            accepts(structure, made.form.write(CALLS), made.tokenizer)
    named = tool_use([WEATHER, NOW], {"type": "function", "function": {"name": "weather"}}, None)
    assert named is not None
    with pytest.raises(InvalidRequest):
        accepts(made.structure(named, None), made.form.write(CALLS[1:]), made.tokenizer)  # type: ignore[arg-type]


def test_an_answer_in_json_beside_tools() -> None:
    made, use = support(), tool_use([WEATHER], "auto", None)
    assert use is not None
    answer = Structure("json", schema_text({"enum": [1, 2]}, param="response_format"), param="response_format")
    structure = made.structure(use, answer)
    assert structure is not None
    assert accepts(structure, "2", made.tokenizer)
    assert accepts(structure, made.form.write(CALLS[:1]), made.tokenizer)
    with pytest.raises(InvalidRequest, match="does not go with tools"):
        made.structure(use, Structure("regex", "a"))


def test_keywords_that_the_grammar_lacks_matter_for_strict_tools_only() -> None:
    vocabulary: Any = ByteTokenizer()
    unique = {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}}
    for strict in (False, True):
        rules = formats.JSON.grammar([Tool("f", unique, strict)], vocabulary, several=False, param="tools")
        structure = Structure("grammar", f"%llguidance {{}}\nstart: calls\n{rules}", param="tools")
        if strict:
            with pytest.raises(UnsupportedField, match="uniqueItems"):
                Grammars(vocabulary, vocabulary.vocab_size).start(structure)
        else:
            Grammars(vocabulary, vocabulary.vocab_size).start(structure)


@pytest.mark.parametrize(
    ("template", "control", "name"),
    [
        ("{{ tools }}<tool_call>", (), "hermes"),
        ("{{ tools }}[TOOL_CALLS]", ("[TOOL_CALLS]",), "mistral"),
        ("{{ tools }}<｜tool▁calls▁begin｜>```json", (), "deepseek"),
        ('{{ tools }}{"name": "parameters"}', (), "llama3"),
        ('{{ tools }} Respond with "parameters"', ("<|python_tag|>",), "llama3"),
        ('{{ tools }} [func_name1(params_name1=params_value1)] "parameters"', (), "pythonic"),
        ("{{ tools }}", ("<start_of_turn>",), "gemma"),
        ("{{ tools }}", (), "json"),
        (CHATML, (), "hermes"),
        (CHATML, ("<start_of_turn>",), "gemma"),
    ],
)
def test_the_format_is_told_by_template_and_vocabulary(template: str, control: tuple[str, ...], name: str) -> None:
    if "parameters" in template and name == "llama3" and "Respond" not in template:
        template = '{{ tools }}{{ \'{"name": "f", "parameters": {}}\' }}'
    made = support(template, *control)
    assert made.form.name == name
    assert made.why
    assert support(template, *control, name="json").form is formats.JSON


def test_versions_of_a_format() -> None:
    assert support("{{ tools }}[TOOL_CALLS][ARGS]").form is formats.MISTRAL_NAMED
    assert support("{{ tools }}[TOOL_CALLS]").form is formats.MISTRAL
    assert support("{{ tools }}<｜tool▁calls▁begin｜><｜tool▁sep｜>").form is formats.DEEPSEEK_V31
    assert support("{{ tools }}<｜tool▁calls▁begin｜><｜tool▁sep｜>```json").form is formats.DEEPSEEK
    with pytest.raises(ConfigError, match="hermes"):
        support(name="prolog")


def test_a_template_without_tools_is_told_in_the_system_message() -> None:
    made, use = support(), tool_use([WEATHER, NOW], "auto", None)
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Köln"}'}}
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "rain"},
    ]
    rendered, tools = made.messages(messages, use)
    assert tools is None
    system, user, assistant, result = rendered
    assert system["content"].startswith("Be kind.\n\nYou can call functions.")
    assert '{"name": "weather", "description": "of a city", "parameters"' in system["content"]
    assert "<tool_call>\n" in system["content"]
    assert user == messages[1]
    written = '<tool_call>\n{"name": "weather", "arguments": {"city": "Köln"}}\n</tool_call>'
    assert assistant == {"role": "assistant", "content": written}
    assert result == {"role": "user", "content": "<tool_response>\nrain\n</tool_response>"}
    alone, _ = made.messages(messages[1:2], use)
    assert [message["role"] for message in alone] == ["system", "user"]
    without, _ = made.messages(messages, None)
    assert without[0] == messages[0], "no tools, nothing to tell"


def test_a_template_with_tools_gets_them() -> None:
    made = support("{{ tools }}<tool_call>")
    use = tool_use([WEATHER], "auto", None)
    messages = [{"role": "user", "content": "Weather?"}]
    assert made.messages(messages, use) == (messages, [WEATHER])
    assert made.messages(messages, None) == (messages, None)


def test_ids_of_calls_suit_mistrals_templates() -> None:
    made = support("{{ tools }}[TOOL_CALLS]")
    call = {"id": "call_with_a_long_id", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": call["id"], "content": "x"},
    ]
    first, second = made.messages(messages, None)[0]
    assert len(first["tool_calls"][0]["id"]) == 9
    assert first["tool_calls"][0]["id"] == second["tool_call_id"]
    call["id"] = messages[1]["tool_call_id"] = "a1B2c3D4e"
    assert made.messages(messages, None)[0][1]["tool_call_id"] == "a1B2c3D4e"


@pytest.mark.parametrize(
    ("tools", "choice", "param"),
    [
        ([{"type": "function"}], None, "tools"),
        ([{"type": "web_search"}], None, "tools"),
        ([{"function": {"name": ""}}], None, "tools"),
        ([{"function": {"name": "f", "parameters": [1]}}], None, "tools"),
        ([NOW, NOW], None, "tools"),
        ([NOW] * 600, None, "tools"),
        ([NOW], {"type": "function", "function": {"name": "other"}}, "tool_choice"),
        ([NOW], "sometimes", "tool_choice"),
        (None, "required", "tool_choice"),
    ],
)
def test_wrong_tools_are_refused(tools: Any, choice: Any, param: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        tool_use(tools, choice, None)
    assert raised.value.param == param


@pytest.mark.parametrize(("tools", "choice"), [(None, None), ([], "auto"), ([NOW], "none"), (None, "none")])
def test_no_tools_to_call(tools: Any, choice: Any) -> None:
    assert tool_use(tools, choice, None) is None
