"""What an output must look like: a JSON schema, a regular expression or a grammar, and where in the output it holds."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from befit.errors import InvalidRequest, UnsupportedField

MAX_CHARACTERS = {"json": 1 << 20, "regex": 1 << 16, "grammar": 1 << 20}
"""Of the text of a structure, by its kind."""

WHITESPACE = r" |\n[ \t]{0,40}"
"""Between the tokens of JSON: a space, or a line break and an indentation. Without a bound, small models go on with
whitespace for ever where JSON allows it."""

FORMAT_LENGTHS = {"email": 254, "hostname": 253, "date-time": 35, "time": 24, "duration": 40}
"""Characters of a string of such a format, where the schema sets no limit: by RFC 5321 and RFC 1035, and times to the
nanosecond. The syntax alone has no end, and small models go on with an address or a fraction of seconds for ever."""

MAX_REPEATED = 100_000
"""Characters of a regular expression when its counted repetitions are written out, one after another."""

_DIGITS = 15  # that any parser keeps of a decimal number
_REGEX_IN_LARK = re.compile(r"/((?:\\.|[^/\\\n])+)/")
_REPETITION = re.compile(r"\{(\d+)(?:,(\d*))?\}")


@dataclass(frozen=True, slots=True)
class Structure:
    """What an output must look like. InvalidRequest when it is too long.

    kind     "json": `text` is a JSON schema; "regex": a regular expression that the whole must match; "grammar": Lark
             in llguidance's dialect, or GBNF
    after    the output is free until it holds this text, and the structure begins behind it; "" is from the start
    begun    with or without `after`: a regular expression (Python's, of one group). Where free output begins with a
             match, the structure begins behind that too, as if "\\2", the group and a line break came first; "\\1"
             then comes before what follows `after`, so that a grammar can tell
    opening  with `after`: the spelling of a token. If the output begins with that, it is free until `after`; otherwise
             the structure holds from the start
    again    once complete, the output is free until the next `after` or `begun`; otherwise it ends there
    param    the request field that errors name
    """

    kind: Literal["json", "regex", "grammar"]
    text: str
    after: str = ""
    begun: str = ""
    opening: str = ""
    again: bool = False
    param: str = field(default="structured_outputs", compare=False)

    @property
    def waits(self) -> bool:
        """Whether output is free at first."""
        return bool(self.after or self.begun)

    def __post_init__(self) -> None:
        _check_size(self.text, self.kind, self.param)
        if not _has_utf8(self.text):
            raise InvalidRequest(
                f"{self.param} has half of a surrogate pair, which is no character and has no UTF-8; leave it out.",
                self.param,
            )
        if self.kind == "regex":
            _check_regex(self.text, self.param)
        elif self.kind == "grammar":
            for found in _REGEX_IN_LARK.finditer(self.text):
                _check_regex(found[1], self.param)


def schema_text(schema: Any, *, lenient: bool = False, whitespace: str | None = None, param: str) -> str:
    """A JSON schema as the text of a structure, or of a `%json` in a grammar.

    lenient: keywords that llguidance does not implement are left out instead of refused. whitespace: a regular
    expression for what may stand between tokens of the JSON, "" for nothing.
    """
    if isinstance(schema, str):
        try:
            schema = json.loads(schema)
        except (ValueError, RecursionError):
            raise InvalidRequest(f"{param} is not valid JSON; send a JSON schema.", param) from None
    if isinstance(schema, bool):
        schema = {} if schema else {"not": {}}
    if not isinstance(schema, Mapping):
        raise InvalidRequest(f"{param} is {type(schema).__name__}; a JSON schema is an object.", param)
    options: dict[str, Any] = {}
    if whitespace == "":
        options["whitespace_flexible"] = False
    else:
        options["whitespace_pattern"] = WHITESPACE if whitespace is None else whitespace
    if lenient:
        options["lenient"] = True
    try:
        _check_size(json.dumps(schema), "json", param)  # before it is walked, on the event loop
        _check_schema(schema, False, param)
        return json.dumps({**_with_lengths(schema), "x-guidance": options})
    except RecursionError:
        raise InvalidRequest(f"{param} is nested too deeply.", param) from None


def _with_lengths(value: Any) -> Any:
    """A schema in which strings of the FORMAT_LENGTHS have a greatest length."""
    if isinstance(value, list):
        return [_with_lengths(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    changed = {key: item if key in ("const", "enum") else _with_lengths(item) for key, item in value.items()}
    known = changed.get("format")
    if isinstance(known, str) and known in FORMAT_LENGTHS:
        changed.setdefault("maxLength", FORMAT_LENGTHS[known])
    return changed


def _check_schema(value: Any, literal: bool, param: str) -> None:
    """Refuse numbers under `const` and `enum` that llguidance would write with other last digits, and patterns that
    repeat too much."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if key == "pattern" and isinstance(item, str) and not literal:
                _check_regex(item, param)
            _check_schema(item, literal or key in ("const", "enum"), param)
    elif isinstance(value, list):
        for item in value:
            _check_schema(item, literal, param)
    elif literal and isinstance(value, int | float) and not isinstance(value, bool):
        text = repr(value).lstrip("-")
        if "e" in text or len(text.replace(".", "")) > _DIGITS:
            raise UnsupportedField(
                f"{param} has the number {value!r} as const or in an enum; up to {_DIGITS} digits and no exponent can "
                "be written exactly.",
                param,
            )


def _check_size(text: str, kind: str, param: str) -> None:
    most = MAX_CHARACTERS[kind]
    if len(text) > most:
        raise InvalidRequest(f"{param} has {len(text)} characters; a structure may have {most}.", param)


def _has_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def choice_text(choices: Sequence[str], *, param: str) -> str:
    """A grammar of one of the choices."""
    if not isinstance(choices, list | tuple) or not choices or not all(isinstance(one, str) and one for one in choices):
        raise InvalidRequest(f"{param} must be a list of strings, none of them empty.", param)
    return "start: " + " | ".join(json.dumps(one) for one in choices)


def _check_regex(pattern: str, param: str) -> None:
    """Refuse a regular expression whose repetitions multiply: `((a{1000}){1000}){1000}` is short and takes seconds."""
    sizes = [0]  # of the groups that are open, written out
    last = 0  # of what a repetition behind it would repeat
    at, inside_class = 0, False
    while at < len(pattern):
        char = pattern[at]
        step = 2 if char == "\\" else 1
        repetition = _REPETITION.match(pattern, at) if char == "{" and not inside_class else None
        if repetition is not None:
            most = int(repetition[2] or repetition[1])
            sizes[-1] += last * max(most - 1, 0)
            last *= most
            step = repetition.end() - at
        elif char == "(" and not inside_class:
            sizes.append(0)
        elif char == ")" and not inside_class and len(sizes) > 1:
            last = sizes.pop()
            sizes[-1] += last
        else:
            inside_class = char == "[" or (inside_class and char != "]")
            last = 1
            sizes[-1] += 1
        at += step
        if sizes[-1] > MAX_REPEATED:
            raise InvalidRequest(
                f"{param} has a regular expression that is over {MAX_REPEATED} characters with its repetitions written "
                "out; repeat less.",
                param,
            )
