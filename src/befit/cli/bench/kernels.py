"""`befit bench kernels`: matrix kernels against this machine's limits and against NumPy."""

from __future__ import annotations

from typing import Any

import click

from befit.cli.bench.options import Numbers, check_outputs, finish, output_options, settings
from befit.cli.options import POSITIVE


@click.command("kernels")
@click.option("--isa", multiple=True, help="An instruction set; may be given again.  [default: all that this CPU runs]")
@click.option(
    "--format", "formats", multiple=True, help="A weight format, such as q4_k; may be given again.  [default: all]"
)
@click.option("--tokens", type=Numbers(), default="1,2,4,8,16,32,64,512", show_default=True)
@click.option("--threads", type=POSITIVE, metavar="N", help="[default: one a core]")
@click.option(
    "--megabytes",
    type=click.FloatRange(min=0.1),
    metavar="N",
    default=64.0,
    show_default=True,
    help="Weights in the file's format.",
)
@click.option(
    "--seconds", type=click.FloatRange(min=0.001), metavar="N", default=0.1, show_default=True, help="For each kernel."
)
@output_options()
def command(**options: Any) -> None:
    """Time every matrix kernel beside what this machine can do at best, and check its results.

    A cell is the share of the limit: reading the weights once, or with a * the multiply-adds.
    """
    from tqdm import tqdm  # type: ignore[import-untyped]

    from befit.backends.native import _native
    from befit.bench.kernels import ALL_FORMATS, Limits, judge, measure, tables
    from befit.bench.machine import headline, machine
    from befit.bench.report import make_result, table
    from befit.errors import ConfigError
    from befit.plan.hardware import physical_cores

    check_outputs(options["json_file"], options["plot"])
    isas, formats = options["isa"] or _native.isas(), options["formats"] or ALL_FORMATS
    for what, wanted, have in (("--isa", isas, _native.isas()), ("--format", formats, ALL_FORMATS)):
        for name in wanted:
            if name not in have:
                raise ConfigError(f"{what} is {name!r}; this build on this CPU has {', '.join(have)}.")
    info = machine()
    limits = Limits(options["threads"] or physical_cores())
    click.echo(headline(info))
    tokens = [int(n) for n in options["tokens"]]
    work = [(isa, kind, n) for isa in isas for kind in formats for n in tokens]
    runs = [
        measure(isa, kind, n, limits=limits, megabytes=options["megabytes"], seconds=options["seconds"])
        for isa, kind, n in tqdm(work, unit="kernel", disable=None, leave=False)
    ]
    judge(runs, limits)
    size = int(options["megabytes"] * 1e6)
    info["read_gb_s"] = limits.bandwidth(size) / 1e9
    info["peaks_gmac_s"] = {
        isa: {"int8": limits.peak(isa, True) / 1e9, "f32": limits.peak(isa, False) / 1e9} for isa in isas
    }
    click.echo(f"reading {size / 1e6:g} MB: {info['read_gb_s']:.1f} GB/s with {limits.threads} threads")
    for isa, rows in tables(runs):
        peaks = info["peaks_gmac_s"][isa]
        click.echo(f"\n{isa}: at best {peaks['int8']:.0f} GMAC/s of 8-bit integers, {peaks['f32']:.0f} of float32")
        click.echo(table(rows))
    finish(make_result("kernels", info, settings(options), runs), options["json_file"], options["plot"])
