"""Targets: JSON schemas, regular expressions and grammars."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from common import One, document, dumped

from befit.errors import BefitError


def make_structure(kind: str) -> Callable[[], One]:
    """JSON schemas, regular expressions or grammars: compiled and followed for some tokens."""

    def make() -> One:
        from befit.engine.grammar import Grammars
        from befit.structure import Structure, schema_text
        from support.confined import VOCAB, ByteTokenizer

        words: Any = ByteTokenizer()
        masks = np.zeros((1, (VOCAB + 31) // 32), np.uint32)

        def follow(structure: Structure) -> None:
            grammar = Grammars(words, VOCAB).start(structure)
            for step in range(12):
                masks[:] = 0
                grammar.fill(masks, [])
                if grammar.error is not None:
                    return
                allowed = np.flatnonzero(np.unpackbits(masks.view(np.uint8), bitorder="little"))
                assert len(allowed), "nothing is allowed, and there is no error"
                if grammar.push(int(allowed[step * 7 % len(allowed)])):
                    return

        def take(value: Any) -> None:
            with contextlib.suppress(BefitError):
                if kind == "json":
                    follow(Structure("json", schema_text(value, lenient=True, param="it"), param="it"))
                elif isinstance(value, str):
                    follow(Structure(kind, value, param="it"))  # type: ignore[arg-type]

        return document(take)

    return make


def schema_seeds() -> Iterator[bytes]:
    tree = {"$ref": "#/$defs/t", "$defs": {"t": {"type": "object", "properties": {"next": {"$ref": "#/$defs/t"}}}}}
    text = {"type": "string", "pattern": "^[a-z]{2,5}$", "format": "date-time", "minLength": 1}
    yield from dumped(tree, text, {"anyOf": [{"enum": [1, "a", None]}, {"items": text, "minItems": 2}]})


SCHEMA_WORDS = (
    "type", "object", "array", "string", "integer", "number", "null", "properties", "required", "items",
    "prefixItems", "enum", "const", "anyOf", "allOf", "oneOf", "not", "$ref", "#", "#/$defs/t", "$defs", "$id",
    "$anchor", "minimum", "maximum", "exclusiveMinimum", "multipleOf", "minLength", "maxLength", "pattern", "(a+)+$",
    "((a{1,99}){1,99}){1,99}", "[^a]*", "format", "date-time", "uuid", "email", "minItems", "maxItems", "uniqueItems",
    "additionalProperties", "patternProperties", "propertyNames", "if", "then", "else", "minProperties",
    "dependentRequired", "unevaluatedProperties", "contains", "x-guidance",
)  # fmt: skip
PATTERN_WORDS = (
    "(", ")", "(?:", "(?=", "(?!", "(?i)", "(?P<n>", "[", "]", "[^", "a-z", "\\d", "\\w", "\\s", "\\b", "\\p{L}",
    "\\x41", "\\u{1F600}", "*", "+", "?", "*?", "{9999}", "{1,999}", "{,}", "|", ".", "^", "$", "&", "~", "(a+)+",
    "(a|a)*", "((a*)*)*", "\\1", "\\", "é",
)  # fmt: skip
GRAMMAR_WORDS = (
    "start: ", "root ::= ", " | ", "\n", '"a"', "/a+/", "/(a|b)*/", "a: a a", "%json {}", "%llguidance {}",
    "%ignore /x/", "%regex {}", "{1,99}", "{99999}", "*", "+", "?", "[a-z]", "[^\\n]", "(", ")", "<[1]>", "<[99999]>",
    "<a>", "A: ", "::=", "stop=", "lazy", "max_tokens=3", "[capture]", "%import common.INT", "@a", "&", "~",
    '"\\x00"', "# x",
)  # fmt: skip


def regex_seeds() -> Iterator[bytes]:
    yield from dumped("(a+)+$", r"\d{4}-\d{2}-\d{2}", "[a-z]*(foo|bar)?", "a{2,30}", "", r"(?i:x)\p{Lu}[^\n]")


def grammar_seeds() -> Iterator[bytes]:
    yield from dumped(
        'start: "a" b*\nb: /[0-9]+/ | "(" b ")"',
        'root ::= "a" item+\nitem ::= [a-z]+ | "(" item ")"',
        '%llguidance {}\nstart: x\nx: %json {"type": "object"}',
        "start: a\na: a a | B\nB: /b/",
    )
