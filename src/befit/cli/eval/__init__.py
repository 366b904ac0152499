"""`befit eval`: one file per subcommand, each imported when it is asked for."""

from __future__ import annotations

import click

from befit.cli.verbs import Verbs

SUBCOMMANDS = ("humaneval", "fim", "perplexity")


@click.group("eval", cls=Verbs, package=__name__, names=SUBCOMMANDS)
def command() -> None:
    """Judge a model's answers: functions with tests, holes in code, the surprise at a text.

    Without --url, a befit serve is started for MODEL and ended afterwards. A report (--json) is filled as answers come;
    given again, it is gone on with.
    """
