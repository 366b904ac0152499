"""`befit stop`: a model out of a running server's memory."""

from __future__ import annotations

import click

from befit.cli.remote import remote_options


@click.command("stop")
@click.argument("model")
@remote_options
def command(model: str, url: str, api_key: str | None) -> None:
    """Take MODEL out of a running server's memory, when its requests are over; the next request loads it again."""
    from befit.cli.remote import ask

    ask(url, "POST", "/api/generate", api_key, {"model": model, "keep_alive": 0, "stream": False})
