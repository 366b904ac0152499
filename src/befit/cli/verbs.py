"""Groups of commands whose modules are imported when one is asked for, so that --help is instant."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import click


class Verbs(click.Group):
    """A group whose commands are the `command` objects of the modules of a package, in the order of `names`."""

    def __init__(self, *args: Any, package: str, names: Sequence[str], **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.package = package
        self.names = names

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in their order."""
        return list(self.names)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command of that name; None where there is none."""
        if cmd_name not in self.names:
            return None
        command: click.Command = import_module(f"{self.package}.{cmd_name}").command
        return command
