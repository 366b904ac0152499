"""`befit bench startup`: from nothing to the first token, again and again."""

from __future__ import annotations

from typing import Any

import click

from befit.cli.bench.options import check_outputs, finish, output_options, settings
from befit.cli.options import POSITIVE
from befit.store.catalogue import DEFAULT_MODEL


@click.command("startup", context_settings={"ignore_unknown_options": True})
@click.argument("model", default=DEFAULT_MODEL)
@click.argument("serve_options", nargs=-1, type=click.UNPROCESSED)
@click.option("--repeat", type=POSITIVE, metavar="N", default=5, show_default=True)
@output_options()
def command(model: str, serve_options: tuple[str, ...], **options: Any) -> None:
    """Start `befit serve MODEL`, wait for /health, ask for a few tokens, end it; and again.

    MODEL may be a folder that befit build wrote. Further options go to befit serve. The first start may have to read
    the file from disk; later ones need not.
    """
    from tqdm import trange  # type: ignore[import-untyped]

    from befit import store
    from befit.bench.machine import headline, machine
    from befit.bench.processes import ending_on_sigterm
    from befit.bench.report import make_result, table
    from befit.bench.startup import memory_bound, rows, start_once, summary

    check_outputs(options["json_file"], options["plot"])
    path = store.resolve(model)  # fetched here if need be, not while the clock runs
    size = sum(file.stat().st_size for file in (path.iterdir() if path.is_dir() else [path]))
    info = machine()
    click.echo(headline(info))
    with ending_on_sigterm():
        runs = [
            start_once(str(path), serve_options)
            for _ in trange(options["repeat"], unit="start", disable=None, leave=False)
        ]
    numbers = summary(runs)
    click.echo(f"{path.name}, {size / 1e6:.1f} MB, {len(runs)} starts")
    click.echo(table(rows(numbers)))
    click.echo(f"memory is meant to stay below {memory_bound(size) / 1e6:.0f} MB (1.4 x the file + 150 MB) when ready")
    given = {"model": path.name, "file_bytes": size, "serve_options": list(serve_options)}
    result = make_result("startup", info, {**given, **settings(options)}, runs)
    result["summary"] = numbers
    finish(result, options["json_file"], options["plot"])
