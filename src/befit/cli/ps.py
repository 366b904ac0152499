"""`befit ps`: the models that a running server has in memory."""

from __future__ import annotations

import click

from befit.cli.remote import remote_options


@click.command("ps")
@remote_options
def command(url: str, api_key: str | None) -> None:
    """List the models that a running server has in memory, and until when."""
    from datetime import UTC, datetime

    from befit.cli import text
    from befit.cli.remote import ask

    models = ask(url, "GET", "/api/ps", api_key)["models"]
    if not models:
        click.echo(f"{url} has no model in memory.", err=True)
        return
    rows = [
        [
            model["name"],
            text.size(model["size"]),
            model["details"]["quantization_level"],
            f"{model['context_length']:,}",
            _until((datetime.fromisoformat(model["expires_at"]) - datetime.now(UTC)).total_seconds()),
        ]
        for model in models
    ]
    click.echo(text.table([["NAME", "SIZE", "QUANTISATION", "CONTEXT", "UNTIL"], *rows]))


def _until(seconds: float) -> str:
    for unit, size in (("year", 365 * 86400), ("day", 86400), ("hour", 3600), ("minute", 60), ("second", 1)):
        count = int(seconds // size)
        if count:
            return "for ever" if unit == "year" else f"in {count} {unit}{'s' if count > 1 else ''}"
    return "now"
