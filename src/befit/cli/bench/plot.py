"""`befit bench plot`: drawings of saved results."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("plot")
@click.argument(
    "results",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="RESULT.json...",
)
@click.option(
    "--output",
    "-o",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    required=True,
    metavar="FILE",
    help="An .svg or .png file.",
)
def command(results: tuple[Path, ...], output: Path) -> None:
    """Draw saved results of one kind in one picture, a line for each file, named after it."""
    from befit.bench.plot import check, draw
    from befit.bench.report import read_json

    check(output)
    draw([(path.stem, read_json(path)) for path in results], output)
    click.echo(f"wrote {output}")
