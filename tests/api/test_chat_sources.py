"""Where a chat template comes from, and messages that it would not take as they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from befit.api.chat import ChatTemplate
from befit.api.chat_sources import choose
from befit.errors import ConfigError, TemplateError
from support.tokenizers import byte_level

TOKENS = byte_level("<|endoftext|>", "<|im_start|>", "<|im_end|>")
HI = [{"role": "user", "content": "hi"}]


def render(text: str, messages: list[dict[str, Any]], **options: Any) -> str:
    return ChatTemplate(text, TOKENS, source="the test's").render(messages, **options)


# Sources


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("chat_template.jinja", "beside"),
        ("chat_template.json", json.dumps({"chat_template": "beside"})),
        ("tokenizer_config.json", json.dumps({"chat_template": "beside", "bos_token": "<s>"})),
        (
            "tokenizer_config.json",
            json.dumps(
                {"chat_template": [{"name": "rag", "template": "r"}, {"name": "default", "template": "beside"}]}
            ),
        ),
    ],
)
def test_a_file_beside_a_model_that_has_none(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    for beside in (tmp_path / "model.gguf", tmp_path):
        found = choose({}, TOKENS, beside=beside)
        assert found.text == "beside"
        assert str(tmp_path / name) in found.why
    assert choose({"tokenizer.chat_template": "own"}, TOKENS, beside=tmp_path).text == "own"


def test_the_order_of_files_beside_a_model(tmp_path: Path) -> None:
    for name, content in (
        ("tokenizer_config.json", '{"chat_template": "third"}'),
        ("chat_template.json", '{"chat_template": "second"}'),
        ("chat_template.jinja", "first"),
    ):
        (tmp_path / name).write_text(content)
        assert choose({}, TOKENS, beside=tmp_path).text in content
    (tmp_path / "chat_template.jinja").unlink()
    (tmp_path / "chat_template.json").write_text("{}")
    assert choose({}, TOKENS, beside=tmp_path).text == "third"


def test_a_folder_without_any_leaves_the_familys(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text('{"bos_token": "<s>"}')
    assert choose({}, TOKENS, beside=tmp_path).why.startswith("befit's ChatML: the model file has no chat template")


@pytest.mark.parametrize("content", ["{", "[" * 100_000, b"\xff"])
def test_a_broken_file_is_told_and_not_passed_over(tmp_path: Path, content: str | bytes) -> None:
    path = tmp_path / "tokenizer_config.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError, match=r"tokenizer_config\.json cannot be read"):
        choose({}, TOKENS, beside=tmp_path)


def test_what_the_user_gives_comes_first(tmp_path: Path) -> None:
    metadata = {"tokenizer.chat_template": "own", "tokenizer.chat_template.rag": "for rag"}
    config = tmp_path / "tokenizer_config.json"
    config.write_text(json.dumps({"chat_template": [{"name": "tool_use", "template": "t"}]}))
    assert choose(metadata, TOKENS, given=config).text == "t"
    assert choose(metadata, TOKENS, given="rag").text == "for rag"
    named = choose(metadata, TOKENS, given="llama3")
    assert "<|start_header_id|>" in named.text
    assert named.why == "befit's llama3, as asked for"
    with pytest.raises(ConfigError, match=r"own templates are called rag; befit's are called chatml, llama3, gemma"):
        choose(metadata, TOKENS, given="nothing")
    config.write_text("{}")
    with pytest.raises(ConfigError, match="holds no chat template"):
        choose(metadata, TOKENS, given=config)


def test_a_named_list_without_a_default() -> None:
    metadata = {"tokenizer.chat_template.tool_use": "t", "tokenizer.chat_template.rag": "r"}
    found = choose(metadata, TOKENS)
    assert (found.text, found.tool_use) == ("r", "t")
    assert found.why == "the model's own (tokenizer.chat_template.rag)"


# Messages

USER_FIRST = (
    "{% if messages[0].role != 'user' %}{{ raise_exception('user first') }}{% endif %}"
    "{% for m in messages %}[{{ m.role[0] }}:{{ m.content }}]{% endfor %}"
)
SYSTEM_FIRST = (
    "{% for m in messages %}{% if m.role == 'system' and not loop.first %}{{ raise_exception('late') }}{% endif %}"
    "[{{ m.role[0] }}:{{ m.content }}]{% endfor %}"
)
LEAVES_OUT = "{% for m in messages %}{% if m.role != 'system' %}[{{ m.content }}]{% endif %}{% endfor %}"


def test_a_conversation_that_the_assistant_begins() -> None:
    assert render(USER_FIRST, [{"role": "assistant", "content": "Yes?"}, *HI]) == "[u:][a:Yes?][u:hi]"


def test_late_system_messages_are_brought_to_the_front() -> None:
    late = [{"role": "system", "content": "A"}, *HI, {"role": "system", "content": "B"}]
    assert render(SYSTEM_FIRST, late) == "[s:A\n\nB][u:hi]"


def test_system_messages_are_never_left_out() -> None:
    chat = ChatTemplate(LEAVES_OUT, TOKENS, source="x")
    assert chat.drops_system
    assert chat.render([{"role": "system", "content": "Be brief."}, *HI]) == "[Be brief.\n\nhi]"
    assert not ChatTemplate(SYSTEM_FIRST, TOKENS, source="x").drops_system
    assert chat.render([{"role": "system", "content": ""}]) == ""


def test_templates_that_fail_without_a_word_are_tried_again_too() -> None:
    text = (
        "{% for m in messages %}{{ {'user': 'U', 'assistant': 'A'}[m.role].x.y if m.role == 'system' else m.content }}"
    )
    text += "{% endfor %}"
    assert render(text, [{"role": "system", "content": "S"}, *HI]) == "S\n\nhi"
    with pytest.raises(TemplateError, match="failed on these messages: UndefinedError"):
        render("{{ a.b.c }}", HI)


def test_templates_that_take_contents_apart_get_parts() -> None:
    parts = "{% for m in messages %}{% for p in m['content'] %}<{{ p.type }}:{{ p.text }}>{% endfor %}{% endfor %}"
    assert render(parts, [*HI, {"role": "user", "content": None}]) == "<text:hi><text:>"
    either = "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}"
    either += "{% for p in m.content %}{{ p.text }}!{% endfor %}{% endif %}{% endfor %}"
    assert render(either, HI) == "hi"


def test_fields_that_are_null_are_not_there() -> None:
    text = "{% for m in messages %}{{ m.tool_calls is defined }}{{ 'name' in m }}{{ m.content }}{% endfor %}"
    for calls in (None, []):
        message = {"role": "assistant", "content": None, "tool_calls": calls, "name": None}
        assert render(text, [message]) == "FalseFalse"
