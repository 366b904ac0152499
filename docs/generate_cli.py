"""Write docs/cli.md from the command line's own --help. A test compares the two."""

from pathlib import Path

import click

from befit.cli import VERBS, group

TARGET = Path(__file__).parent / "cli.md"
HEAD = """\
# The command line

This page is what `--help` says; `python docs/generate_cli.py` writes it. Exit statuses: 0 done, 1 an error (told in one
message on standard error), 2 wrong usage, 130 ended by Ctrl-C. [Configuration](configuration.md) says what each setting
means and what auto makes of it.
"""


def render() -> str:
    """The page."""
    context = click.Context(group, info_name="befit")
    parts = [HEAD, _section("befit", group)]
    for verb in VERBS:
        command = group.get_command(context, verb)
        assert command is not None
        parts += _sections(f"befit {verb}", command)
    return "\n".join(parts)


def _sections(name: str, command: click.Command) -> list[str]:
    """A command's section, then those of its subcommands."""
    parts = [_section(name, command)]
    if isinstance(command, click.Group):
        context = click.Context(command, info_name=name)
        for one in command.list_commands(context):
            subcommand = command.get_command(context, one)
            assert subcommand is not None
            parts += _sections(f"{name} {one}", subcommand)
    return parts


def _section(name: str, command: click.Command) -> str:
    context = click.Context(command, info_name=name, terminal_width=100, help_option_names=["-h", "--help"])
    return f"## {name}\n\n```text\n{command.get_help(context)}\n```\n"


if __name__ == "__main__":
    TARGET.write_text(render(), encoding="utf-8")
