"""`befit list`: the models on this machine, and those that befit knows by name."""

from __future__ import annotations

import click


@click.command("list")
@click.option("--available", is_flag=True, help="List the models that befit knows by name instead.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
def command(available: bool, as_json: bool) -> None:
    """List the models on this machine: befit's own, those in the hub's cache, and Ollama's."""
    from befit import store
    from befit.cli import text

    if available:
        from befit.cli import search

        search.show([], as_json)
        return
    rows = store.list_models()
    if as_json:
        import json

        fields = [
            {
                "name": row.name,
                "size": row.size,
                "modified": row.modified.isoformat(timespec="seconds"),
                "where": row.where,
                "path": str(row.path),
                "sha256": row.sha,
                "problem": row.problem or None,
            }
            for row in rows
        ]
        click.echo(json.dumps(fields, indent=2))
        return
    if not rows:
        click.echo(f"No models in {store.home()} yet; fetch one with: befit pull {store.DEFAULT_MODEL}", err=True)
        return
    cells = [[row.name, text.size(row.size), f"{row.modified:%Y-%m-%d %H:%M}", row.sha[:12], row.where] for row in rows]
    click.echo(text.table([["NAME", "SIZE", "MODIFIED", "SHA256", "WHERE"], *cells]))
    for row in rows:
        if row.problem:
            click.echo(f"{row.name}: {row.problem}", err=True)
