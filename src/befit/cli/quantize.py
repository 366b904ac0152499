"""`befit quantize`: a model rounded to 8 or 4 bits, as a GGUF file or a built folder."""

from __future__ import annotations

from pathlib import Path

import click

from befit.cli.options import POSITIVE


@click.command("quantize")
@click.argument("source", metavar="SRC")
@click.argument("target", metavar="DST", type=click.Path(path_type=Path))
@click.option(
    "--to",
    type=click.Choice(["w8", "w4", "w4-awq"]),
    default="w4-awq",
    show_default=True,
    help="Bits of a weight: 8, 4, or 4 with scales chosen by what flows through the model.",
)
@click.option(
    "--blocks",
    type=click.Choice(["auto", "q4_0", "q4_1", "q4_k"]),
    default="auto",
    show_default=True,
    help="Block format of 4-bit matrices; auto: q4_k where their rows allow it, else q4_1.",
)
@click.option("--no-perplexity", is_flag=True, help="Do not measure the model before and after.")
@click.option("--force", is_flag=True, help="Replace a file, or a built folder, that is there.")
@click.option("--threads", type=POSITIVE, metavar="N", help="Worker threads.  [default: one a physical core]")
def command(
    source: str, target: Path, to: str, blocks: str, no_perplexity: bool, force: bool, threads: int | None
) -> None:
    """Round the weights of SRC to fewer bits and write DST: a GGUF file where it ends in .gguf, else a built folder.

    SRC is a model as befit takes it elsewhere: a name, a .gguf file or a Hugging Face folder, best with weights of 16
    or 32 bits. Other programs read the GGUF file too. Perplexity on a built-in text of code says what rounding cost.
    """
    import os
    from typing import cast

    # Before NumPy is imported: befit has threads of its own here, and a library's that wait by spinning slow them down.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from befit import store
    from befit.engine.load import served_name
    from befit.errors import ConfigError
    from befit.plan.hardware import physical_cores
    from befit.quantize.convert import check_quantize_target, convert
    from befit.quantize.recipe import Target

    target = target.expanduser()
    check_quantize_target(Path(source).expanduser(), target, force=force)  # before a model is fetched for it
    path = store.resolve(source, progress=True)
    if store.is_build(str(path)):
        raise ConfigError(f"{source} is a built folder, packed for one purpose; name the model that it was built from.")
    report = convert(
        path,
        target,
        to=cast(Target, to),
        name=served_name(source, path),
        blocks=blocks,
        threads=threads or physical_cores(),
        force=force,
        progress=True,
        measured=not no_perplexity,
        say=lambda text: click.echo(f"befit: {text}", err=True),
    )
    formats = ", ".join(f"{count} {name}" for name, count in sorted(report.formats.items()))
    before, after = report.source_bytes / 1e6, report.bytes / 1e6
    click.echo(f"weights     {before:,.1f} MB to {after:,.1f} MB ({formats}) in {report.seconds:.0f} s")
    if report.before is not None and report.after is not None:
        worse = 100 * (report.after / report.before - 1)
        click.echo(f"perplexity  {report.before:.3f} to {report.after:.3f} ({worse:+.1f} %) on built-in code")
    elif report.after is not None:
        click.echo(f"perplexity  {report.after:.3f} on built-in code")
    click.echo(report.target)
