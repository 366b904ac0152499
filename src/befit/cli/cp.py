"""`befit cp`: a model under another name."""

from __future__ import annotations

import click


@click.command("cp")
@click.argument("model")
@click.argument("name")
def command(model: str, name: str) -> None:
    """Store MODEL, which is on this machine, as NAME too, and print where.

    MODEL is whatever befit takes: a name, a .gguf file, hf:..., ollama:... NAME is FAMILY:TAG. Files that are in a
    store are shared by a hard link where the disk can do that, so that the copy takes no room; others are copied.
    """
    from befit import store

    click.echo(store.copy(model, name))
