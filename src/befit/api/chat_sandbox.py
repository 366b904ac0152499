"""Jinja2 for chat templates: what transformers' `apply_chat_template` provides, and bounds on what a template does.

A template comes with a model file, so it is not trusted with anything but its messages. Jinja2's immutable sandbox
keeps it from reaching Python; the bounds here keep it from running, or growing, without end.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from jinja2 import Template, nodes
from jinja2.ext import Extension
from jinja2.filters import do_batch, do_center, do_format, do_indent
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

MAX_CHARACTERS = 32 << 20
"""Of a rendered conversation, and of any string that a template multiplies or adds up on the way."""
MAX_ROUNDS = 1_000_000
"""Of all loops together in one rendering."""
MAX_INDENT = 64
"""Of JSON that a template writes."""

_METER = "befit_metered"
_JOIN = "befit_joined"


class RefusedError(Exception):
    """The template called raise_exception."""


class LimitError(Exception):
    """The template went over a bound."""


class _Rounds:
    """What is left to loop in one rendering."""

    def __init__(self) -> None:
        self.left = MAX_ROUNDS

    def metered(self, items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            self.left -= 1
            if self.left < 0:
                raise LimitError(f"it looped more than {MAX_ROUNDS:,} times.")
            yield item


class _Generation(Extension):
    """`{% generation %} … {% endgeneration %}`: marks the assistant's text for training; here it is just its text."""

    tags = {"generation"}  # noqa: RUF012  (the base class declares a plain set)

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


_WIDTHS = re.compile(r"%[^a-zA-Z%]*")
_BRACED_WIDTHS = re.compile(r"[:.][^{}]*?(\d+)")
_NESTED_WIDTH = re.compile(r"\{[^{}]*:[^{}]*\{")


class _Bounds(NodeTransformer):
    """Rewrites a template so that its loops draw on the rendering's rounds and `~` checks the size of its result."""

    def visit_For(self, node: nodes.For) -> nodes.For:  # noqa: N802  (jinja2 names visitors so)
        self.generic_visit(node)
        node.iter = _call(_METER, [node.iter], node.lineno)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Call:  # noqa: N802
        self.generic_visit(node)
        return _call(_JOIN, node.nodes, node.lineno)


def _call(name: str, arguments: list[Any], line: int) -> nodes.Call:
    return nodes.Call(nodes.Name(name, "load", lineno=line), arguments, [], None, None, lineno=line)


class Sandbox(ImmutableSandboxedEnvironment):
    """Compiles and renders templates. `variables` are there in each of them: bos_token, eos_token."""

    intercepted_binops = frozenset({"*", "**", "+", "%"})

    def __init__(self, variables: Mapping[str, str]) -> None:
        # Unoptimized: constants would be computed while the template is compiled, without bounds.
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,
            extensions=["jinja2.ext.loopcontrols", _Generation],
        )
        self.filters.update(tojson=_to_json, batch=_batch, center=_center, format=_format, indent=_indent)
        del self.filters["slice"], self.globals["lipsum"]  # no template has them, and they have no bounds
        self.globals.update(variables, raise_exception=_raise, strftime_now=_now)

    def template(self, source: str) -> Template:
        """The compiled template. Raises jinja2's TemplateSyntaxError."""
        tree = _Bounds().visit(self.parse(source))
        return self.template_class.from_code(self, self.compile(tree), self.make_globals(None))

    def uses(self, source: str, variable: str) -> bool:
        """Whether the template looks at a variable that it is given."""
        names = self.parse(source).find_all(nodes.Name)
        return any(name.name == variable and name.ctx == "load" for name in names)

    def wants_parts(self, source: str) -> bool:
        """Whether the template takes contents apart without asking first whether they are strings."""
        tree = self.parse(source)
        asked = any(test.name == "string" and _is_content(test.node) for test in tree.find_all(nodes.Test))
        return not asked and any(_is_content(loop.iter) for loop in tree.find_all(nodes.For))

    def render(self, template: Template, variables: Mapping[str, Any]) -> str:
        """Raises RefusedError, LimitError, or what the template's own expressions do."""
        pieces: list[str] = []
        size = 0
        for piece in template.generate({**variables, _METER: _Rounds().metered, _JOIN: _joined}):
            size += len(piece)
            if size > MAX_CHARACTERS:
                raise LimitError(f"it wrote more than {MAX_CHARACTERS:,} characters.")
            pieces.append(piece)
        return "".join(pieces)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """An operation whose result could be far larger than its operands."""
        if operator == "**" and not (_within(left, 1 << 16) and _within(right, 64)):
            raise LimitError("it raises numbers to powers beyond 65,536 ** 64.")
        if operator == "*":
            for items, factor in ((left, right), (right, left)):
                if isinstance(items, str | list | tuple) and isinstance(factor, int):
                    _check(len(items) * factor)
        if operator == "%" and isinstance(left, str):
            _check(_widths(left, right))
        if operator == "+" and isinstance(left, str | list | tuple) and isinstance(right, str | list | tuple):
            _check(len(left) + len(right))
        return super().call_binop(context, operator, left, right)

    def wrap_str_format(self, value: Any) -> Any:
        """`str.format` with widths that are written out and bounded."""
        wrapped = super().wrap_str_format(value)
        if wrapped is not None:
            if _NESTED_WIDTH.search(value.__self__):
                raise LimitError("it takes the width of a field from another one; only written widths are allowed.")
            _check(sum(map(int, _BRACED_WIDTHS.findall(value.__self__))))
        return wrapped

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805  (as jinja2 has it)
        """A call; methods of strings that could make them far longer are bounded."""
        text, name = getattr(__obj, "__self__", None), getattr(__obj, "__name__", "")
        if isinstance(text, str) and name in ("center", "expandtabs", "ljust", "rjust", "zfill"):
            numbers = [one for one in (*args, *kwargs.values()) if isinstance(one, int)]
            _check(max(numbers, default=0) * (1 + text.count("\t")))
        if isinstance(text, str) and name == "replace" and len(args) > 1 and isinstance(args[1], str):
            _check((len(text) + 1) * len(args[1]))
        return super().call(__context, __obj, *args, **kwargs)


def _is_content(node: nodes.Node) -> bool:
    if isinstance(node, nodes.Getattr):
        return node.attr == "content"
    return isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const) and node.arg.value == "content"


def _widths(form: str, values: Any) -> int:
    """Characters that the widths and precisions of a format with % ask for, those among its values included."""
    asked = sum(int(number) for one in _WIDTHS.findall(form) for number in re.findall(r"\d+", one))
    if "*" in form:
        listed = values if isinstance(values, tuple) else (values,)
        asked += sum(abs(value) for value in listed if isinstance(value, int))
    return asked


def _batch(value: Iterable[Any], linecount: int, fill_with: Any = None) -> Iterator[list[Any]]:
    _check(linecount)
    return do_batch(value, linecount, fill_with)


def _center(value: Any, width: int = 80) -> str:
    _check(width)
    return do_center(str(value), width)


def _format(value: str, *args: Any, **kwargs: Any) -> str:
    _check(_widths(value, args))
    return do_format(value, *args, **kwargs)


def _indent(value: str, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    lines = 1 + value.count("\n")
    _check(len(value) + lines * (width if isinstance(width, int) else len(width)))
    return do_indent(value, width, first, blank)


def _joined(*values: Any) -> str:
    texts = [str(value) for value in values]
    _check(sum(map(len, texts)))
    return "".join(texts)


def _check(size: int) -> None:
    if size > MAX_CHARACTERS:
        raise LimitError(f"it makes a text or list of {size:,} items; {MAX_CHARACTERS:,} are allowed.")


def _within(number: Any, bound: int) -> bool:
    return isinstance(number, int | float) and abs(number) <= bound


def _raise(message: str) -> None:
    raise RefusedError(message)


def _now(form: str) -> str:
    return datetime.now().strftime(form)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as it is, where Jinja2's own filter escapes it for HTML."""
    if isinstance(indent, int) and indent > MAX_INDENT:
        raise LimitError(f"it indents JSON by {indent:,}; {MAX_INDENT} are allowed.")
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
