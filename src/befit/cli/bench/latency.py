"""`befit bench latency`: single steps of the backend, by context and batch."""

from __future__ import annotations

from typing import Any

import click

from befit.cli.bench.options import Numbers, check_outputs, finish, output_options, settings
from befit.cli.options import POSITIVE, engine_options, to_engine_options
from befit.store.catalogue import DEFAULT_MODEL


@click.command("latency")
@click.argument("model", default=DEFAULT_MODEL)
@click.option("--contexts", type=Numbers(), default="128,512,2048", show_default=True, help="Tokens of each sequence.")
@click.option("--batches", type=Numbers(), default="1,8,32", show_default=True, help="Sequences of a step.")
@click.option("--steps", type=POSITIVE, metavar="N", default=16, show_default=True, help="Decode steps that are timed.")
@click.option("--token-budget", type=POSITIVE, metavar="N", help="Tokens of a prefill step.  [default: auto]")
@engine_options
@output_options()
def command(model: str, **options: Any) -> None:
    """Time prefill and decode steps of fixed shapes, without scheduler or server.

    The KV cache gets what the largest of them needs, if there is memory for it; what does not fit is told.
    """
    from contextlib import closing

    from tqdm import tqdm  # type: ignore[import-untyped]

    from befit.bench.machine import headline, machine
    from befit.bench.offline import latency, load_for_steps
    from befit.bench.report import make_result, table

    check_outputs(options["json_file"], options["plot"])
    contexts, batches = [int(n) for n in options["contexts"]], [int(n) for n in options["batches"]]
    info = machine()
    click.echo(headline(info))
    shapes = {"contexts": contexts, "batches": batches, "steps": options["steps"]}
    bar = tqdm(total=len(contexts) * (1 + len(batches)), unit="shape", disable=None, leave=False)
    loading = load_for_steps(model, to_engine_options(options), **shapes, progress=True, report=click.echo)
    runs = []
    with closing(loading) as loaded, bar:
        for run in latency(loaded, **shapes, progress=bar.set_description):
            runs.append(run)
            bar.update()
    rows: list[list[Any]] = [["", "context", "batch", "tok/s", "step p50 ms", "p99", "weights GB/s"]]
    for run in runs:
        ms = run.get("step_ms", {})
        numbers = [run.get("tok_s"), ms.get("p50"), ms.get("p99"), run.get("weights_gb_s")]
        rows.append([run["phase"], run["context"], run["batch"], *numbers])
    click.echo(table(rows))
    for run in runs:
        if "skipped" in run:
            click.echo(f"Not measured: {run['phase']} of {run['batch']} x {run['context']}: {run['skipped']}")
    finish(
        make_result("latency", info, {"model": model, **settings(options)}, runs),
        options["json_file"],
        options["plot"],
    )
