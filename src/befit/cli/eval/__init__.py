"""`befit eval`: one file per subcommand, each imported when it is asked for."""

from __future__ import annotations

from importlib import import_module

import click

SUBCOMMANDS = ("humaneval", "fim", "perplexity")


class _Subcommands(click.Group):
    """A group whose commands are the `command` objects of the modules beside this one."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*SUBCOMMANDS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in SUBCOMMANDS:
            return None
        command: click.Command = import_module(f"befit.cli.eval.{cmd_name}").command
        return command


@click.group("eval", cls=_Subcommands)
def command() -> None:
    """Judge a model's answers: functions with tests, holes in code, the surprise at a text.

    Without --url, a befit serve is started for MODEL and ended afterwards. A report (--json) is filled as answers come;
    given again, it is gone on with.
    """
