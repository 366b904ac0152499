"""`befit build`: a model repacked into a folder that loads faster."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from befit.cli.options import POSITIVE

if TYPE_CHECKING:
    from befit.prepared.plan import Target


@click.command("build")
@click.argument("model")
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), metavar="DIR", help="The folder to write."
)
@click.option(
    "--backend",
    type=click.Choice(["native", "cuda"]),
    default="native",
    show_default=True,
    help="What is to load it: the CPU's kernels, or a card's.",
)
@click.option("--force", is_flag=True, help="Replace a built folder that is there.")
@click.option("--threads", type=POSITIVE, metavar="N", help="Worker threads.  [default: one a physical core]")
def command(model: str, output: Path, backend: str, force: bool, threads: int | None) -> None:
    """Repack MODEL into a folder that starts faster, and print where it is.

    The folder stands for the model wherever MODEL is asked for, with the same outputs. It holds all it needs, for any
    CPU or, with --backend cuda, for any card; building needs none. When it does not match this befit any more, or the
    model file has changed, it is built anew on use.
    """
    from befit import store
    from befit.engine.load import served_name
    from befit.errors import ConfigError
    from befit.plan.hardware import physical_cores
    from befit.prepared.write import build, check_target

    check_target(output, force=force)  # before a model is fetched for it
    path = store.resolve(model, progress=True)
    if store.is_build(str(path)):
        raise ConfigError(f"{model} is a built folder already; name the model that it was built from.")
    build(
        path,
        output,
        name=served_name(model, path),
        threads=threads or physical_cores(),
        force=force,
        progress=True,
        backend=cast("Target", backend),
    )
    click.echo(output)
