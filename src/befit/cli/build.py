"""`befit build`: a model repacked into a folder that loads faster."""

from __future__ import annotations

from pathlib import Path

import click

from befit.cli.options import POSITIVE


@click.command("build")
@click.argument("model")
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), metavar="DIR", help="The folder to write."
)
@click.option("--force", is_flag=True, help="Replace a built folder that is there.")
@click.option("--threads", type=POSITIVE, metavar="N", help="Worker threads.  [default: one a physical core]")
def command(model: str, output: Path, force: bool, threads: int | None) -> None:
    """Repack MODEL into a folder that starts faster, and print where it is.

    The folder stands for the model wherever MODEL is asked for, with the same outputs. It holds all it needs, for any
    CPU. When it does not match this befit any more, or the model file has changed, it is built anew on use.
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
    build(path, output, name=served_name(model, path), threads=threads or physical_cores(), force=force, progress=True)
    click.echo(output)
