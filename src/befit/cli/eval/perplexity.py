"""`befit eval perplexity`: the surprise of a model at a text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from befit.cli.eval.options import bar
from befit.cli.options import POSITIVE
from befit.store.catalogue import DEFAULT_MODEL


@click.command("perplexity")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("model", default=DEFAULT_MODEL)
@click.option(
    "--backend",
    type=click.Choice(["native", "reference"]),
    default="native",
    show_default=True,
    help="native: the C++ core; reference: NumPy in float32, slow, for checking.",
)
@click.option("--window", type=click.IntRange(min=2), metavar="N", default=1024, show_default=True, help="Tokens.")
@click.option("--threads", type=POSITIVE, metavar="N", help="Worker threads.  [default: one a physical core]")
@click.option(
    "--json",
    "json_file",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    metavar="FILE",
    help="Write the result there.",
)
def command(file: Path, model: str, backend: Any, window: int, threads: int | None, json_file: Path | None) -> None:
    """How surprised MODEL is by the text in FILE: exp(mean of -ln p(token)), lower is better.

    The text is read in windows that do not overlap. Values are comparable between files with one vocabulary.
    """
    import hashlib
    import json
    from dataclasses import asdict

    from befit import disk, store
    from befit.errors import ConfigError
    from befit.eval.perplexity import measure
    from befit.plan.hardware import physical_cores

    data = file.read_bytes()
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file} is not a text in UTF-8: {error}.") from None
    path = store.resolve(model, progress=True)
    with bar(0, "Perplexity") as show:

        def on_tokens(done: int, total: int) -> None:
            show.total = total
            show.update(done - show.n)

        found = measure(
            path, text, backend=backend, threads=threads or physical_cores(), window=window, on_tokens=on_tokens
        )
    click.echo(f"perplexity {found.perplexity:.4f} over {found.scored:,} tokens in {found.windows} windows ({backend})")
    if json_file is not None:
        settings = {"model": model, "backend": backend, "window": window, "text": hashlib.sha256(data).hexdigest()}
        disk.write_whole(json_file, json.dumps({"settings": settings, "summary": asdict(found)}, indent=1) + "\n")
