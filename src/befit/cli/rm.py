"""`befit rm`: remove models from this machine."""

from __future__ import annotations

import sys

import click


@click.command("rm")
@click.argument("models", metavar="MODEL...", nargs=-1)
@click.option("--unfinished", is_flag=True, help="Remove what interrupted downloads have left, too.")
@click.option("--yes", is_flag=True, help="Do not ask before files that other tools find too are removed.")
def command(models: tuple[str, ...], unfinished: bool, yes: bool) -> None:
    """Remove each MODEL, and say how much disk that frees.

    A model in the hub's cache may be in use by other tools: befit asks first. Ollama's models are left to Ollama.
    """
    from befit import store
    from befit.cli import text

    if not models and not unfinished:
        raise click.UsageError("Name a model, or give --unfinished.")
    for removal in [store.removal(model) for model in models]:  # nothing goes before all of them are known to be here
        if removal.shared and not yes:
            if not sys.stdin.isatty():
                raise click.UsageError(f"{removal.name} is in the hub's cache, where other tools find it; add --yes.")
            click.echo("\n".join(map(str, removal.paths)))
            click.confirm(f"{removal.name} is in the hub's cache, where other tools find it. Remove it?", abort=True)
        click.echo(f"removed {removal.name}: {text.size(removal.run())} freed")
    if unfinished:
        click.echo(f"removed unfinished downloads: {text.size(store.remove_unfinished())} freed")
