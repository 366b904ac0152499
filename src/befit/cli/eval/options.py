"""Options that the evaluations of a server share."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from befit.cli.options import POSITIVE

if TYPE_CHECKING:
    from befit.eval.endpoint import Endpoint

Function = TypeVar("Function", bound=Callable[..., Any])


def endpoint_options(function: Function) -> Function:
    """Which server is asked, and how much at once."""
    for option in (
        click.option(
            "--json",
            "json_file",
            type=click.Path(dir_okay=False, writable=True, path_type=Path),
            metavar="FILE",
            help="The report, an item a question; one that is there is gone on with.",
        ),
        click.option("--concurrency", type=POSITIVE, metavar="N", default=32, show_default=True, help="Asked at once."),
        click.option(
            "--befit", "befit_options", default="", metavar="OPTIONS", help="More options of befit serve, in one text."
        ),
        click.option(
            "--api-key", envvar="OPENAI_API_KEY", show_envvar=True, default="", help="Sent as a bearer token."
        ),
        click.option("--name", default="", help="What to ask --url for.  [default: the first that it lists]"),
        click.option("--url", help="A server that runs already, http://HOST:PORT/v1, instead of MODEL."),
        click.argument("model", required=False),
    ):
        function = option(function)
    return function


@contextmanager
def opened(options: dict[str, Any]) -> Iterator[Endpoint]:
    """The server that the options name. Raises UsageError for both or neither of MODEL and --url."""
    from befit import store
    from befit.eval.endpoint import open_endpoint

    path = store.resolve(options["model"], progress=True) if options["model"] else None
    with open_endpoint(
        path,
        options["url"],
        name=options["name"],
        api_key=options["api_key"],
        options=shlex.split(options["befit_options"]),
    ) as endpoint:
        yield endpoint


def check_target(options: dict[str, Any]) -> str:
    """What is judged, for a report's settings."""
    if bool(options["model"]) == bool(options["url"]):
        raise click.UsageError("Give MODEL, or --url of a server that runs; one of them.")
    return str(options["model"] or options["url"])


def bar(total: int, label: str, done: int = 0) -> Any:
    """A bar on standard error, only in a terminal."""
    from tqdm import tqdm  # type: ignore[import-untyped]

    return tqdm(total=total, initial=done, desc=label, disable=None, leave=False, dynamic_ncols=True)
