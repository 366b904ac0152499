"""`befit bench`: one file per subcommand, each imported when it is asked for."""

from __future__ import annotations

import click

from befit.cli.verbs import Verbs

SUBCOMMANDS = ("serve", "throughput", "latency", "kernels", "startup", "peers", "plot")


@click.group("bench", cls=Verbs, package=__name__, names=SUBCOMMANDS)
def command() -> None:
    """Measure servers, the engine, its kernels and its start.

    Every measurement can be written as JSON with the machine and all settings (--json) and drawn (--plot).
    """
