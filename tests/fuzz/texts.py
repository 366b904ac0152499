"""Targets: chat templates, and texts for tokenisers."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
from common import HI, KEY, One, document, dumped, fields

from befit import tokenizer
from befit.errors import BefitError
from befit.tokenizer.incremental import IncrementalDecoder
from support.files import TEMPLATE, vocabulary


def make_template() -> One:
    from befit.api.chat import ChatTemplate
    from befit.api.chat_sandbox import MAX_CHARACTERS

    words = vocabulary()
    made = tokenizer.load(words)
    leaks = ("<class ", "<module ", "<function ", "<built-in", "object at 0x")

    def take(value: Any) -> None:
        given = fields(value, template="", messages=HI, tools=[])
        messages = [message for message in given.messages if isinstance(message, dict)]
        shown = refusal = ""
        try:
            template = ChatTemplate.from_metadata({**words, "tokenizer.chat_template": given.template}, made)
            shown = template.render(messages, tools=given.tools or None)
            template.encode(messages)
        except BefitError as error:
            refusal = error.message
        assert len(refusal) < 3000
        assert len(shown) <= MAX_CHARACTERS
        assert not [leak for leak in leaks if leak in shown and leak not in json.dumps(value)], shown

    return document(take)


def template_seeds() -> Iterator[bytes]:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    texts = [
        TEMPLATE,
        "{%- if tools %}{{ tools | tojson(2) }}{% endif %}{% for m in messages %}{{ m.content | trim }}{% endfor %}",
        "{% set ns = namespace(x=0) %}{% for m in messages %}{% set ns.x = ns.x + loop.index %}{% endfor %}{{ ns.x }}",
        "{% macro f(a) %}{{ a }}{% if a > 0 %}{{ f(a - 1) }}{% endif %}{% endmacro %}{{ f(3) }}",
        "{{ raise_exception('no') }}",
        "{% for k, v in messages[0].items() %}{{ '%s=%s' % (k, v) }}{{ '{}'.format(v) }}{% endfor %}",
        "{{ strftime_now('%Y') }}{{ messages | map(attribute='content') | join(', ') }}{{ range(9) | list }}",
    ]
    yield from dumped(*({"template": text, "messages": HI, "tools": [tool]} for text in texts))


TEMPLATE_WORDS = (
    "{{", "}}", "{%", "%}", "{#", "{%- for m in messages %}", "{% endfor %}", "{% if x %}", "{% else %}",
    "{% endif %}", "{% set x = x ~ x %}", "{% macro f() %}", "{% endmacro %}", "{{ f() }}", "{% block a %}",
    "{% include 'a' %}", "{% call f() %}", "{% filter upper %}", "{% raw %}", "{% generation %}", "{% break %}",
    "range(10 ** 9)", " * 10 ** 9", "|format(9)", ".format(m)", "'%99999999d' % 1", "|center(999999999)",
    "|indent(9999999)", "|tojson", "|attr('__class__')", ".__class__", ".__globals__",
    "|map(attribute='a.__class__')", "|batch(9)", "|slice(9)", "|groupby('role')", "|sort(attribute='role')",
    "|wordwrap(1)", "|urlize", "|xmlattr", "|random", "|sum", "|unique", "|round(99)", "lipsum(99)", "cycler",
    "joiner", "self", "loop", "dict(a=1)", "messages[0].update({})", "messages.append(1)", ".split('')",
    ".replace('', 'x' * 999)", ".join(range(9))", "[::-1]", "1 / 0", "strftime_now('%Y')", "raise_exception(1)",
    "namespace()", "{'a': 1}", "not", " is defined", " is sequence", " is divisibleby(0)",
)  # fmt: skip


def make_tokenizer() -> One:
    from befit.tokenizer.pretokenizers import SPLITTINGS

    plain = {name: value for name, value in vocabulary().items() if name.startswith(KEY)}
    made = [tokenizer.load({**plain, f"{KEY}pre": pre}) for pre in SPLITTINGS]
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581", "a", "\u2581a", "ab"]
    sentencepiece = {
        f"{KEY}model": "llama",
        f"{KEY}tokens": pieces,
        f"{KEY}token_type": np.array([2, 3, 3] + [6] * 256 + [1] * 4, np.int32),
        f"{KEY}scores": np.array([0.0] * 259 + [-1.0, -2.0, -1.5, -1.2], np.float32),
    }
    made.append(tokenizer.load(sentencepiece))

    def one(data: bytes) -> None:
        if not data:
            return
        which, text = (
            made[data[0] % len(made)],
            data[1:].decode("utf-8", "surrogatepass" if data[0] & 128 else "replace"),
        )
        ids = which.encode(text, parse_special=False)
        assert all(0 <= token < which.vocab_size for token in ids)
        shown = which.decode(ids)
        if which is made[0]:
            assert shown == text
        decoder = IncrementalDecoder(which)
        streamed = "".join(decoder.push(token) for token in ids) + decoder.flush()
        assert streamed.lstrip(" ") == shown.lstrip(" "), (streamed, shown)  # what is streamed follows a prompt
        which.encode(text)

    def guarded(data: bytes) -> None:
        with contextlib.suppress(BefitError, UnicodeDecodeError):
            one(data)

    return guarded


def tokenizer_seeds() -> Iterator[bytes]:
    texts = [
        "hello  world\n\n\tx = 1234",
        "<|im_start|>user\n<|im_end|>",
        "\0\ufeff\u202ee\u0301👩‍👩‍👧 <0x41>",
        "ab \u2581a",
    ]
    for at, text in enumerate(texts * 8):
        yield bytes([at * 7 % 256]) + text.encode()
