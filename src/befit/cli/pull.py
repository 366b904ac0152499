"""`befit pull`: fetch a model and check that it came whole."""

from __future__ import annotations

import click


@click.command("pull")
@click.argument("model")
def command(model: str) -> None:
    """Fetch MODEL, with a progress bar, and print where it is.

    A model that is there already is hashed again, and fetched anew if it is damaged.
    """
    from befit import store

    click.echo(store.pull(model, progress=True))
