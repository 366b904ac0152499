"""Options that several benchmarks share, and what they do with a result."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

Function = TypeVar("Function", bound=Callable[..., Any])


class Numbers(click.ParamType[tuple[float, ...]]):
    """A comma-separated list of numbers of at least `least`: whole ones, or any above 0 and `inf` when `real`."""

    name = "N,N,…"

    def __init__(self, least: int = 1, *, real: bool = False) -> None:
        self.least = least
        self.real = real

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        """Part of click."""
        if isinstance(value, tuple):
            return value
        try:
            numbers: list[float] = [float(part) if self.real else int(part) for part in value.split(",")]
        except ValueError:
            numbers = []
        if not numbers or not all(number > 0 if self.real else number >= self.least for number in numbers):
            kind = "numbers above 0" if self.real else f"whole numbers of at least {self.least}"
            self.fail(f"{value!r} is not a list of {kind} with commas between.", param, ctx)
        return tuple(numbers)


def output_options(plot: bool = True) -> Callable[[Function], Function]:
    """--json and, where there is something to draw, --plot."""

    def add(function: Function) -> Function:
        file = click.Path(dir_okay=False, writable=True, path_type=Path)
        if plot:
            function = click.option(
                "--plot", type=file, metavar="FILE", help="Draw the result: .svg or .png (needs befit[plots])."
            )(function)
        return click.option("--json", "json_file", type=file, metavar="FILE", help="Write everything measured there.")(
            function
        )

    return add


seed_option = click.option(
    "--seed",
    type=int,
    metavar="N",
    default=lambda: time.time_ns() // 1_000_000,
    show_default="the time: no prompt was sent before",
    help="Of prompts and arrivals.",
)


def check_outputs(json_file: Path | None, plot: Path | None = None) -> None:
    """Tell what cannot be written before measuring, not after."""
    from befit.errors import ConfigError

    for file in (json_file, plot):
        if file is not None and not file.absolute().parent.is_dir():
            raise ConfigError(f"{file} cannot be written: its folder does not exist.")
    if plot is not None:
        from befit.bench.plot import check

        check(plot)


def finish(result: dict[str, Any], json_file: Path | None, plot: Path | None = None) -> None:
    """Write the result where the user wants it."""
    if json_file is not None:
        from befit.bench.report import write_json

        write_json(json_file, result)
        click.echo(f"wrote {json_file}")
    if plot is not None:
        from befit.bench.plot import draw

        draw([(str(result["benchmark"]), result)], plot)
        click.echo(f"wrote {plot}")


def settings(values: dict[str, Any], *hidden: str) -> dict[str, Any]:
    """A command's options for the result, without secrets and output files."""
    out = {"json_file", "plot", "api_key", *hidden}
    return {
        name: list(value) if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value
        for name, value in values.items()
        if name not in out
    }


def progress_bar(total: int | None, label: str) -> Any:
    """A bar on standard error, only in a terminal."""
    from tqdm import tqdm  # type: ignore[import-untyped]

    return tqdm(total=total, desc=label, unit="req", disable=None, leave=False, dynamic_ncols=True)


def echo_all(lines: Sequence[str], indent: str = "") -> None:
    """Print lines."""
    for line in lines:
        click.echo(indent + line)
