"""`befit search`: the models that befit knows by name."""

from __future__ import annotations

from collections.abc import Sequence

import click


@click.command("search")
@click.argument("words", metavar="WORD...", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
def command(words: tuple[str, ...], as_json: bool) -> None:
    """Search the models that befit knows by name, license, abilities (fim, tools) and repository for every WORD.

    befit list --available shows all of them.
    """
    show(words, as_json)


def show(words: Sequence[str], as_json: bool) -> None:
    """Print the models of the catalogue in which every word occurs."""
    from befit.cli import text
    from befit.store import catalogue

    found = catalogue.search(words)
    if as_json:
        import json
        from dataclasses import asdict

        rows = [{key: value for key, value in asdict(model).items() if key != "wheels"} for model in found]
        click.echo(json.dumps(rows, indent=2))
        return
    if not found:
        raise click.ClickException(f"no model that befit knows has {' and '.join(words)}; see befit list --available.")
    head = ["NAME", "PARAMETERS", "CONTEXT", "SIZE", "ALSO", "FIM", "TOOLS", "LICENSE"]
    cells = [
        [
            model.name,
            text.quantity(model.parameters),
            f"{model.context:,}",
            f"{model.default} {text.size(model.sizes[model.default])}",
            " ".join(kind for kind in model.sizes if kind != model.default),
            "yes" if model.fim else "no",
            "yes" if model.tools else "no",
            model.license,
        ]
        for model in found
    ]
    click.echo(text.table([head, *cells]))
    click.echo("Fetch one with befit pull NAME, or NAME-QUANTISATION; befit plan NAME says whether it fits.", err=True)
