"""Options that several verbs share, and what becomes of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from befit.config import EngineOptions

Function = TypeVar("Function", bound=Callable[..., Any])
POSITIVE = click.IntRange(min=1)


def engine_options(function: Function) -> Function:
    """How a model is loaded, for one conversation or for many."""
    for option in (
        click.option(
            "--kv-dtype",
            type=click.Choice(["f16", "int8", "fp8"]),
            help="int8 halves the KV cache and is less exact, as is fp8, for cards.  [default: f16]",
        ),
        click.option(
            "--quant",
            type=click.Choice(["auto", "none", "w8", "w4"]),
            default="auto",
            show_default=True,
            help="Round a model of 16 or 32 bits to 8 or 4 bits a weight as it is loaded; auto: if it would not fit.",
        ),
        click.option(
            "--memory", metavar="SIZE", help="What befit may take of the memory, as in 6GiB.  [default: what is free]"
        ),
        click.option(
            "--backend",
            type=click.Choice(["auto", "native", "cuda", "reference"]),
            default="auto",
            show_default=True,
            help="native: the C++ core; cuda: an NVIDIA card; reference: NumPy, slow, for checking; auto: cuda where "
            "torch sees a card, else native.",
        ),
        click.option("--threads", type=POSITIVE, metavar="N", help="Worker threads.  [default: one a physical core]"),
        click.option(
            "--ctx",
            type=POSITIVE,
            metavar="N",
            help="Tokens of prompt and output together.  [default: the model's, 8192 at most]",
        ),
        click.option(
            "--loop-guard",
            type=click.Choice(["auto", "on", "off"]),
            default="auto",
            show_default=True,
            help="End output that repeats itself without end; auto: for editors, and where no --max-tokens is set.",
        ),
        click.option("--draft", metavar="MODEL", help="A smaller model with the same vocabulary that guesses ahead."),
        click.option(
            "--speculate",
            "speculation",
            type=click.Choice(["auto", "lookup", "draft", "off"]),
            default="auto",
            show_default=True,
            help="Guess ahead where the text repeats (lookup), with the --draft model, or both (auto).",
        ),
    ):
        function = option(function)
    return function


chat_template_option = click.option(
    "--chat-template",
    metavar="FILE",
    help="A Jinja2 template, a JSON file that has one, or a template's name.  [default: the model's own]",
)


def sampling_options(function: Function) -> Function:
    """How tokens are chosen and when to stop."""
    for option in (
        click.option("--max-tokens", type=POSITIVE, metavar="N", help="Stop here.  [default: the context]"),
        click.option("--seed", type=int, metavar="N", help="The same seed gives the same text."),
        click.option("--top-k", type=int, help="Keep the likeliest k; 0 keeps all.  [default: the model's, else 0]"),
        click.option("--top-p", type=float, help="Keep the likeliest mass p.  [default: the model's, else 0.9]"),
        click.option(
            "--temperature", type=float, help="0 takes the likeliest token.  [default: the model's, else 0.2]"
        ),
    ):
        function = option(function)
    return function


def to_engine_options(values: dict[str, Any]) -> EngineOptions:
    """Settings from the command line's values; options that were left out stay on auto."""
    return EngineOptions(**{name: values[name] for name in EngineOptions.__slots__ if name in values})
