"""`befit du`: what models take of the disk."""

from __future__ import annotations

import click


@click.command("du")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
def command(as_json: bool) -> None:
    """Show what each model takes of the disk, unfinished downloads too, and what is free.

    A file that several names share is counted once, with the first of them.
    """
    import json
    import shutil

    from befit import store
    from befit.cli import text
    from befit.store import hub_cache

    rows = store.disk_usage()
    free = {}
    for place in (store.home(), hub_cache.folder()):
        at = next(parent for parent in (place, *place.parents) if parent.is_dir())
        free[str(place)] = shutil.disk_usage(at).free
    total = sum(row.size for row in rows)
    if as_json:
        models = [{"name": row.name, "where": row.where, "size": row.size} for row in rows]
        click.echo(json.dumps({"models": models, "total": total, "free": free}, indent=2))
        return
    cells = [[row.name, text.size(row.size), row.where] for row in rows]
    click.echo(text.table([["NAME", "ON DISK", "WHERE"], *cells, ["together", text.size(total), ""]]))
    for path, count in free.items():
        click.echo(f"{text.size(count)} free where {path} is")
