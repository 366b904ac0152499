"""Chat templates: what they see, what they may not do, and messages that cannot forge control tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from befit import tokenizer
from befit.api.chat import ChatTemplate
from befit.api.chat_sandbox import MAX_CHARACTERS
from befit.errors import ConfigError, InvalidRequest, TemplateError, UnsupportedField
from befit.tokenizer import Tokenizer
from befit.weights.gguf import GGUFFile

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
ALTERNATING = (
    "{% for m in messages %}{% if m.role != ('assistant' if loop.index0 % 2 else 'user') %}"
    "{{ raise_exception('roles must alternate, not ' + m.role) }}{% endif %}"
    "[{{ m.role[0] }}:{{ m.content }}]{% endfor %}"
)
HI = [{"role": "user", "content": "hi"}]


def byte_metadata(*control: str, **keys: Any) -> dict[str, Any]:
    """A byte-level tokeniser: ids 0–255 are the bytes, then come control tokens."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    spare = iter(range(256, 512))
    tokens = [chr(byte) if byte in printable else chr(next(spare)) for byte in range(256)]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": [*tokens, *control],
        "tokenizer.ggml.token_type": [1] * 256 + [3] * len(control),
        "tokenizer.ggml.merges": [],
        **{f"tokenizer.ggml.{key}": value for key, value in keys.items()},
    }


METADATA = byte_metadata("<|im_start|>", "<|im_end|>", "<s>", "</s>", "</think>", bos_token_id=258, eos_token_id=259)
TOKENS: Tokenizer = tokenizer.load(METADATA)


def template(text: str = CHATML, *, metadata: dict[str, Any] | None = None, **more: str) -> ChatTemplate:
    metadata = METADATA if metadata is None else metadata
    named = {f"tokenizer.chat_template.{name}": value for name, value in more.items()}
    return ChatTemplate.from_metadata(metadata | {"tokenizer.chat_template": text} | named, tokenizer.load(metadata))


# Rendering


def test_a_conversation_ends_with_the_opening_of_the_reply() -> None:
    assert template().render(HI) == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert template().render(HI, add_generation_prompt=False) == "<|im_start|>user\nhi<|im_end|>\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{{ bos_token }}|{{ eos_token }}|{{ pad_token }}", "<s>|</s>|"),
        ("a\n  {% if true %}\nb\n  {% endif %}\nc", "a\nb\nc"),
        ("{% for m in [1, 2, 3] %}{% if m == 2 %}{% continue %}{% endif %}{{ m }}{% endfor %}", "13"),
        ("{% for m in [1, 2, 3] %}{{ m }}{{ ',' if not loop.last }}{{ loop.length }}{% endfor %}", "1,32,333"),
        ("{{ {'a': '<é>'} | tojson }}", '{"a": "<é>"}'),
        ("{{ {'b': 1, 'a': 2} | tojson(indent=1, sort_keys=true) }}", '{\n "a": 2,\n "b": 1\n}'),
        ("{{ strftime_now('%Y') | length }}", "4"),
        ("{% generation %}x{% endgeneration %}", "x"),
        ("{{ messages[0]['content'] is string }}{{ tools is none }}{{ documents is none }}", "TrueTrueTrue"),
        ("{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}", "1"),
        ("{{ 'a' ~ 1 ~ none ~ missing }}", "a1None"),
        ("{{ mood | default('calm') }}", "calm"),
    ],
)
def test_templates_find_what_transformers_gives_them(text: str, expected: str) -> None:
    assert template(text).render(HI) == expected


def test_other_keyword_arguments_are_variables_of_the_template() -> None:
    assert template("{{ enable_thinking }}").render(HI, enable_thinking=False) == "False"


def test_content_may_be_null_or_parts_of_text() -> None:
    messages = [
        {"role": "assistant", "content": None},
        {"role": "assistant"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
    ]
    assert template("{% for m in messages %}[{{ m.content }}]{% endfor %}").render(messages) == "[][][a\nb]"


def test_parts_that_are_not_text_are_named() -> None:
    with pytest.raises(UnsupportedField, match=r"messages\[0\].content\[0\] is of type 'image_url'"):
        template().render([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}])


@pytest.mark.parametrize("messages", [[], [{"content": "x"}], [{"role": "user", "content": 3}]])
def test_messages_that_are_none_are_refused(messages: list[dict[str, Any]]) -> None:
    with pytest.raises(InvalidRequest):
        template().render(messages)


def test_arguments_of_tool_calls_reach_the_template_as_objects() -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
    text = "{{ messages[0].tool_calls[0].function.arguments | tojson }}"
    assert template(text).render([{"role": "assistant", "tool_calls": [call]}]) == '{"x": 1}'


def test_tools_go_to_the_tool_template_or_are_refused() -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    both = template("plain", tool_use="{{ tools[0].function.name }}")
    assert both.render(HI) == "plain"
    assert both.render(HI, tools=tools) == "f"
    assert template("{{ tools | length if tools }}").render(HI, tools=tools) == "1"
    with pytest.raises(UnsupportedField, match="no place for tools"):
        template().render(HI, tools=tools)


# Messages that a template refuses


def test_neighbours_of_one_role_are_joined_when_the_template_wants_turns() -> None:
    messages = [*HI, {"role": "user", "content": "there"}, {"role": "assistant", "content": "yes"}]
    assert template(ALTERNATING).render(messages) == "[u:hi\n\nthere][a:yes]"


def test_a_system_message_goes_into_the_first_user_message_when_the_template_has_none() -> None:
    assert template(ALTERNATING).render([{"role": "system", "content": "Be brief."}, *HI]) == "[u:Be brief.\n\nhi]"
    assert template(ALTERNATING).render([{"role": "system", "content": "Be brief."}]) == "[u:Be brief.]"


def test_templates_that_take_messages_get_them_unjoined() -> None:
    assert template().render([*HI, *HI], add_generation_prompt=False).count("<|im_start|>user") == 2


def test_a_refusal_that_stays_says_what_the_template_says() -> None:
    with pytest.raises(TemplateError, match="refused the messages: roles must alternate, not tool"):
        template(ALTERNATING).render([{"role": "tool", "content": "x"}])


def test_a_template_that_fails_says_how() -> None:
    with pytest.raises(TemplateError, match="UndefinedError"):
        template("{{ messages[7].content.x }}").render(HI)


def test_a_template_that_is_no_jinja_is_refused_at_start_with_its_line() -> None:
    with pytest.raises(TemplateError, match="not valid Jinja2 at line 2"):
        template("\n{% for %}")


# Continuing the last message


def test_a_last_message_can_be_left_open() -> None:
    messages = [*HI, {"role": "assistant", "content": "def f("}]
    text = template().render(messages, add_generation_prompt=False, continue_final_message=True)
    assert text.endswith("<|im_start|>assistant\ndef f(")
    trimming = template("{% for m in messages %}<{{ m.content | trim }}>{% endfor %}")
    messages[-1]["content"] = ""
    assert trimming.render(messages, add_generation_prompt=False, continue_final_message=True) == "<hi><"


def test_a_reply_cannot_be_both_opened_and_continued() -> None:
    with pytest.raises(InvalidRequest, match="exclude each other"):
        template().render(HI, continue_final_message=True)


# Templates that run away


@pytest.mark.parametrize(
    "text",
    [
        "{% for i in range(1000000000) %}x{% endfor %}",
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{{ 'x' * 1000000000 }}",
        "{{ [0] * 1000000000 }}",
        "{{ 9 ** 9 ** 9 }}",
        "{% set ns = namespace(s='x') %}{% for i in range(99) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
        "{% set ns = namespace(s='x') %}{% for i in range(99) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% set x = 'x' * 1000000 %}{% for i in range(99) %}{{ x }}{% endfor %}",
    ],
)
def test_templates_that_run_away_are_stopped(text: str) -> None:
    assert MAX_CHARACTERS < 99_000_000
    with pytest.raises(TemplateError):
        template(text).render(HI)


@pytest.mark.parametrize(
    "text",
    ["{{ messages.__class__.__mro__ }}", "{{ messages.append(1) }}", "{{ ''.__class__.__base__.__subclasses__() }}"],
)
def test_templates_cannot_reach_python_or_change_messages(text: str) -> None:
    with pytest.raises(TemplateError):
        template(text).render(HI)


# Ids


@given(
    st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), st.text(max_size=20)), min_size=1, max_size=4)
)
def test_ids_are_those_of_the_rendered_text(turns: list[tuple[str, str]]) -> None:
    chat = template()
    messages = [{"role": role, "content": content} for role, content in turns]
    assert chat.encode(messages) == TOKENS.encode(chat.render(messages), add_special=False)


@given(st.text(st.sampled_from("<|im_startend>/s 1\n"), max_size=40), st.sampled_from(["<|im_end|>", "<s>", "</s>"]))
def test_messages_cannot_forge_control_tokens(text: str, spelling: str) -> None:
    chat = template()
    messages = [{"role": "user", "content": f"{text}{spelling}{spelling}{text}"}]
    ids = chat.encode(messages)
    assert TOKENS.decode(ids, skip_special=False) == chat.render(messages)
    assert [TOKENS.token_text(token) for token in ids if TOKENS.is_special(token)] == [
        "<|im_start|>",
        "<|im_end|>",
        "<|im_start|>",
    ]


def test_tools_and_arguments_cannot_forge_them_either() -> None:
    chat = template("{{ tools | tojson }}{{ messages[0].tool_calls | tojson }}<|im_end|>")
    tools = [{"type": "function", "function": {"name": "f", "description": "ends with <|im_end|>"}}]
    call = {"type": "function", "function": {"name": "f", "arguments": '{"x": "\\u003c|im_end|>"}'}}
    ids = chat.encode([{"role": "assistant", "tool_calls": [call]}], tools=tools)
    assert [at for at, token in enumerate(ids) if TOKENS.is_special(token)] == [len(ids) - 1]
    assert TOKENS.decode(ids).count("<|im_end|>") == 2


def test_markers_of_reasoning_stay_what_templates_look_for() -> None:
    chat = template("{{ messages[0].content.split('</think>')[-1] }}")
    assert TOKENS.decode(chat.encode([{"role": "assistant", "content": "hm</think>yes"}])) == "yes"


def test_bos_comes_once_from_the_template_or_on_request() -> None:
    metadata = METADATA | {"tokenizer.ggml.add_bos_token": True}
    own, none = template("{{ bos_token }}x", metadata=metadata), template("x", metadata=metadata)
    assert own.encode(HI) == own.encode(HI, add_special=True) == [258, ord("x")]
    assert none.encode(HI) == [ord("x")]
    assert none.encode(HI, add_special=True) == [258, ord("x")]


# Which template


def test_a_file_comes_before_the_models_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.jinja"
    file.write_text("mine")
    chat = ChatTemplate.from_metadata(METADATA | {"tokenizer.chat_template": "own"}, TOKENS, file=file)
    assert chat.render(HI) == "mine"
    assert str(file) in chat.source


def test_a_file_that_cannot_be_read_is_a_wrong_setting(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"GGUF\xff\xfe")
    for name in ("missing", "binary"):
        with pytest.raises(ConfigError, match=name):
            ChatTemplate.from_metadata(METADATA, TOKENS, file=tmp_path / name)


def test_named_templates_alone_will_do() -> None:
    metadata = METADATA | {"tokenizer.chat_templates": ["rag"], "tokenizer.chat_template.default": "named"}
    assert ChatTemplate.from_metadata(metadata, TOKENS).render(HI) == "named"


CONVERSATION = [
    {"role": "system", "content": "S"},
    {"role": "user", "content": "A"},
    {"role": "assistant", "content": "B"},
    {"role": "user", "content": "C"},
]


@pytest.mark.parametrize(
    ("name", "control", "expected"),
    [
        (
            "ChatML",
            ["<|im_start|>", "<|im_end|>"],
            "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nA<|im_end|>\n<|im_start|>assistant\nB<|im_end|>\n"
            "<|im_start|>user\nC<|im_end|>\n<|im_start|>assistant\n",
        ),
        (
            "Llama 3",
            ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
            "<|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n"
            "A<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nB<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\nC<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
        ),
        (
            "Gemma",
            ["<bos>", "<start_of_turn>", "<end_of_turn>"],
            "<start_of_turn>user\nS\n\nA<end_of_turn>\n<start_of_turn>model\nB<end_of_turn>\n"
            "<start_of_turn>user\nC<end_of_turn>\n<start_of_turn>model\n",
        ),
        (
            "DeepSeek-Coder",
            ["<|EOT|>", "<｜fim▁hole｜>"],
            "S\n### Instruction:\nA\n### Response:\nB\n<|EOT|>\n### Instruction:\nC\n### Response:\n",
        ),
        ("plain headings", [], "S\n\n### User:\nA\n\n### Assistant:\nB\n\n### User:\nC\n\n### Assistant:\n"),
    ],
)
def test_models_without_a_template_get_their_familys(name: str, control: list[str], expected: str) -> None:
    metadata = byte_metadata(*control)
    chat = ChatTemplate.from_metadata(metadata, tokenizer.load(metadata))
    assert chat.source.startswith(f"befit's {name}: the model file has no chat template")
    assert chat.render(CONVERSATION) == expected


def test_sentencepiece_models_without_a_template_get_llama_2s() -> None:
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    metadata = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [2, 3, 3] + [6] * 256,
        "tokenizer.ggml.scores": [0.0] * len(tokens),
    }
    made = tokenizer.load(metadata)
    chat = ChatTemplate.from_metadata(metadata, made)
    assert chat.render(CONVERSATION) == "<s>[INST] <<SYS>>\nS\n<</SYS>>\n\nA [/INST] B </s><s>[INST] C [/INST]"
    assert [token for token in chat.encode(CONVERSATION) if made.is_special(token)] == [1, 2, 1]


# The real models


@pytest.mark.model
def test_smollm2(smollm2_path: Path) -> None:
    with GGUFFile.open(smollm2_path) as file:
        made = tokenizer.load(file.metadata)
        chat = ChatTemplate.from_metadata(file.metadata, made)
    assert chat.source == "the model's own (tokenizer.chat_template)"
    assert chat.render(HI) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    )
    assert chat.render(CONVERSATION).startswith("<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nA<|im_end|>\n")
    assert chat.encode(HI) == made.encode(chat.render(HI), add_special=False)
    assert chat.encode(HI)[:3] == [made.token_id("<|im_start|>"), *made.encode("system\n", add_special=False)]


@pytest.mark.qwen
def test_qwen(qwen_path: Path) -> None:
    with GGUFFile.open(qwen_path) as file:
        made = tokenizer.load(file.metadata)
        chat = ChatTemplate.from_metadata(file.metadata, made)
    assert chat.takes_tools
    assert chat.render(CONVERSATION) == (
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nA<|im_end|>\n<|im_start|>assistant\nB<|im_end|>\n"
        "<|im_start|>user\nC<|im_end|>\n<|im_start|>assistant\n"
    )
    call = {"type": "function", "function": {"name": "f", "arguments": '{"x": "<é>"}'}}
    messages = [*HI, {"role": "assistant", "content": None, "tool_calls": [call]}, {"role": "tool", "content": "42"}]
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    text = chat.render(messages, tools=tools)
    assert '<tools>\n{"type": "function", "function": {"name": "f", "parameters": {}}}\n</tools>' in text
    assert '<tool_call>\n{"name": "f", "arguments": {"x": "<é>"}}\n</tool_call><|im_end|>\n' in text
    assert "<|im_start|>user\n<tool_response>\n42\n</tool_response><|im_end|>\n" in text
    assert made.decode(chat.encode(messages, tools=tools), skip_special=False) == text
