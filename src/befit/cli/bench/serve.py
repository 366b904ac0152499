"""`befit bench serve`: load on any OpenAI-compatible server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from befit.cli.bench.options import (
    Numbers,
    check_outputs,
    echo_all,
    finish,
    output_options,
    progress_bar,
    seed_option,
    settings,
)
from befit.cli.options import POSITIVE

WORKLOADS = ("random", "code-mix", "shared-prefix", "editor", "rewrite", "file")


@click.command("serve")
@click.option("--url", default="http://127.0.0.1:8000/v1", show_default=True, help="Base of the API.")
@click.option("--model", metavar="NAME", help="What to ask for.  [default: the first that the server lists]")
@click.option("--chat", is_flag=True, help="Use /chat/completions, not /completions.")
@click.option("--api-key", envvar="OPENAI_API_KEY", show_envvar=True, default="", help="Sent as a bearer token.")
@click.option(
    "--concurrency", type=Numbers(), help="Clients that wait for their answers; a list is a sweep.  [default: 1]"
)
@click.option(
    "--rate", type=Numbers(real=True), help="Requests a second that do not wait (Poisson); `inf` sends all at once."
)
@click.option(
    "--requests",
    type=POSITIVE,
    metavar="N",
    help="A level's requests.  [default: 4 a client, at least 16; 8 for one client; 64 at a rate]",
)
@click.option(
    "--duration", type=click.FloatRange(min=0, min_open=True), metavar="S", help="Send no more after so many seconds."
)
@click.option("--workload", type=click.Choice(WORKLOADS), default="random", show_default=True)
@click.option(
    "--prompt-tokens", type=POSITIVE, metavar="N", help="As the server counts them.  [default: the workload's]"
)
@click.option("--output-tokens", type=POSITIVE, metavar="N", help="Asked for.  [default: the workload's]")
@click.option("--prefix-tokens", type=POSITIVE, metavar="N", help="Of shared-prefix.  [default: 1024]")
@click.option(
    "--prompts",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="JSONL of --workload file.",
)
@seed_option
@click.option(
    "--warmup",
    type=click.IntRange(min=0),
    metavar="N",
    default=2,
    show_default=True,
    help="Requests first that are not counted.",
)
@click.option("--temperature", type=click.FloatRange(min=0), metavar="N", default=0.0, show_default=True)
@click.option("--ignore-eos/--no-ignore-eos", default=True, show_default=True, help="Ask for outputs of full length.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    metavar="N",
    default=600.0,
    show_default=True,
    help="Seconds a request.",
)
@click.option("--goodput", multiple=True, metavar="SLO", help="Limits in ms, such as ttft:200,tpot:30,e2e:5000.")
@click.option(
    "--cost-per-hour",
    type=click.FloatRange(min=0),
    metavar="X",
    help="Of the machine, for the cost of a million tokens.",
)
@click.option("--raw", is_flag=True, help="Every request's numbers in the JSON too.")
@output_options()
def command(**options: Any) -> int:
    """Put load on a server that speaks the OpenAI API and measure it.

    A closed loop (--concurrency) has clients that each wait for their answer; an open loop (--rate) sends whether
    answers come or not. Exit status 1 when a request failed.
    """
    from befit.bench.calibrate import find_model
    from befit.bench.machine import headline, machine
    from befit.bench.metrics import parse_slo
    from befit.bench.report import make_result, serve_notes, serve_table
    from befit.bench.serve import Load, default_requests, measure, warm_up
    from befit.bench.target import Target
    from befit.bench.workloads import Lengths, make_workload

    if options["concurrency"] and options["rate"]:
        raise click.UsageError("--concurrency is a closed loop and --rate an open one; give one of them.")
    check_outputs(options["json_file"], options["plot"])
    slo = parse_slo(options["goodput"])
    loads = []
    for concurrency, rate in [(int(n), None) for n in options["concurrency"] or ()] + [
        (None, r) for r in options["rate"] or ()
    ] or [(1, None)]:
        requests = options["requests"] or (None if options["duration"] else default_requests(concurrency))
        loads.append(Load(concurrency=concurrency, rate=rate, requests=requests, seconds=options["duration"]))
    info = machine()
    target = Target(
        options["url"],
        model=options["model"] or "",
        chat=options["chat"],
        api_key=options["api_key"],
        temperature=options["temperature"],
        ignore_eos=options["ignore_eos"],
        timeout=options["timeout"],
        keep_text=options["workload"] == "rewrite",
    )
    target.model = target.model or find_model(target)
    click.echo(headline(info))
    click.echo(f"{target.url}: {target.model}, {options['workload']}", nl=False)
    lengths = Lengths(prompt=options["prompt_tokens"], output=options["output_tokens"], prefix=options["prefix_tokens"])
    workload = make_workload(options["workload"], target, lengths, options["seed"], options["prompts"])
    click.echo("" if target.ignore_eos or not options["ignore_eos"] else " (the server refuses ignore_eos)")
    warm_up(target, workload, options["warmup"])
    runs = []
    for level, load in enumerate(loads):
        with progress_bar(load.requests, load.name) as bar:
            tokens = 0

            def progress(record: Any, bar: Any = bar) -> None:
                nonlocal tokens
                if record is not None:
                    tokens += record.output_tokens
                    bar.set_postfix_str(f"{tokens / max(bar.format_dict['elapsed'], 1e-9):.0f} tok/s", refresh=False)
                    bar.update()

            run = measure(
                target,
                workload,
                load,
                name=f"level {level}",
                seed=options["seed"],
                slo=slo,
                cost_per_hour=options["cost_per_hour"],
                raw=options["raw"],
                progress=progress,
            )
        runs.append(run)
    click.echo(serve_table(runs))
    for load, run in zip(loads, runs, strict=True):
        click.echo(f"{load.name}:")
        echo_all(serve_notes(run), "  ")
    finish(
        make_result("serve", info, {**settings(options), "model": target.model}, runs),
        options["json_file"],
        options["plot"],
    )
    return 1 if any(run["errors"] for run in runs) else 0
