"""Any text as a chat template: it renders in bounds or is refused with a typed error, and never reaches Python."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from befit import tokenizer
from befit.api.chat import ChatTemplate
from befit.api.chat_sandbox import MAX_CHARACTERS
from befit.errors import BefitError

NAMES = ["messages", "m", "m.role", "m['content']", "loop.index", "bos_token", "tools", "nothing", "x", "namespace"]
HOSTILE = [
    "''.__class__.__mro__",
    "messages.__init__.__globals__",
    "raise_exception.__globals__",
    "cycler.__init__.__globals__.os",
    "self._TemplateReference__context",
    "'%s' % messages",
    "'{0.__class__}'.format(m)",
    "messages|map(attribute='__class__')|list",
    "m|attr('__class__')",
    "lipsum.__globals__",
    "''|format(1, 2)",
    "messages.clear()",
    "range(10 ** 12)|list",
    "'a' * 10 ** 12",
    "'a'|center(10 ** 12)",
    "'%1000000000d' % 1",
    "10 ** 10 ** 10",
    "strftime_now('%Y' * 99999)",
    "m|tojson(indent=10 ** 9)",
]
expressions = st.recursive(
    st.sampled_from([*NAMES, *HOSTILE, "1", "'é'", "none", "[]", "{}"]),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["+", "~", "*", "-", "in", "==", "and", "//", "%"]), inner).map(
            lambda three: f"({three[0]} {three[1]} {three[2]})"
        ),
        st.tuples(inner, st.sampled_from(["tojson", "trim", "length", "list", "join", "string", "first", "items"])).map(
            lambda two: f"({two[0]}|{two[1]})"
        ),
        inner.map(lambda one: f"({one})[0]"),
        inner.map(lambda one: f"({one}).x"),
    ),
    max_leaves=4,
)
texts = st.recursive(
    st.one_of(expressions.map(lambda one: f"{{{{ {one} }}}}"), st.text("ab<|>{}%#-\n", max_size=8)),
    lambda inner: st.one_of(
        st.tuples(expressions, inner).map(lambda two: f"{{% for m in {two[0]} %}}{two[1]}{{% endfor %}}"),
        st.tuples(expressions, inner).map(lambda two: f"{{% if {two[0]} %}}{two[1]}{{% endif %}}"),
        expressions.map(lambda one: f"{{% set x = {one} %}}"),
        inner.map(lambda one: f"{{% macro f() %}}{one}{{{{ f() }}}}{{% endmacro %}}{{{{ f() }}}}"),
        st.lists(inner, min_size=2, max_size=3).map("".join),
    ),
    max_leaves=5,
)
METADATA: dict[str, Any] = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "gpt-2",
    "tokenizer.ggml.tokens": ["a", "b", "<s>"],
    "tokenizer.ggml.token_type": [1, 1, 3],
    "tokenizer.ggml.merges": [],
    "tokenizer.ggml.bos_token_id": 2,
}
LEAKS = ("<class ", "<module ", "<function ", "<built-in", "object at 0x")


@settings(max_examples=50, deadline=10_000)
@given(texts)
def test_any_template_renders_in_bounds_or_is_refused(text: str) -> None:
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "there"}]
    refusal = ""
    shown = ""
    try:
        made = ChatTemplate.from_metadata({**METADATA, "tokenizer.chat_template": text}, tokenizer.load(METADATA))
        shown = made.render(messages)
    except BefitError as error:
        refusal = error.message
    assert len(refusal) < 2000
    assert len(shown) <= MAX_CHARACTERS
    assert not [leak for leak in LEAKS if leak in shown], shown
    assert messages == [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "there"}]


@pytest.mark.parametrize(
    "text",
    [
        "{{ '%1000000000d' % 1 }}",
        "{{ '%.1000000000f' % 1 }}",
        "{{ '%*d' % (1000000000, 1) }}",
        "{{ '%1000000000d'|format(1) }}",
        "{{ 'a'|center(1000000000) }}",
        "{{ 'a'.ljust(1000000000) }}",
        "{{ '\t'.expandtabs(1000000000) }}",
        "{{ '{:1000000000}'.format(1) }}",
        "{{ '{:{}}'.format(1, 1000000000) }}",
        "{{ ('a' * 9999).replace('', 'b' * 9999) }}",
        "{{ [1]|batch(1000000000, 0)|list }}",
        "{{ 'a'|indent(1000000000, true) }}",
        "{{ {'a': 1}|tojson(indent=1000000000) }}",
        "{{ 10 ** 10 ** 10 }}",
        "{% set x = 'a' * 10 ** 9 %}",
    ],
)
def test_what_would_be_far_too_long_is_refused_before_it_is_made(text: str) -> None:
    made = ChatTemplate.from_metadata({**METADATA, "tokenizer.chat_template": text}, tokenizer.load(METADATA))
    with pytest.raises(BefitError, match=r"allowed|powers"):
        made.render([{"role": "user", "content": "hi"}])
