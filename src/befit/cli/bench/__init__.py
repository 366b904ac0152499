"""`befit bench`: one file per subcommand, each imported when it is asked for."""

from __future__ import annotations

from importlib import import_module

import click

SUBCOMMANDS = ("serve", "throughput", "latency", "kernels", "startup", "peers", "plot")


class _Subcommands(click.Group):
    """A group whose commands are the `command` objects of the modules beside this one."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*SUBCOMMANDS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in SUBCOMMANDS:
            return None
        command: click.Command = import_module(f"befit.cli.bench.{cmd_name}").command
        return command


@click.group("bench", cls=_Subcommands)
def command() -> None:
    """Measure servers, the engine, its kernels and its start.

    Every measurement can be written as JSON with the machine and all settings (--json) and drawn (--plot).
    """
