"""`befit bench throughput`: the engine in this process with many requests at once."""

from __future__ import annotations

from typing import Any

import click

from befit.cli.bench.options import check_outputs, finish, output_options, seed_option, settings
from befit.cli.options import POSITIVE, engine_options, to_engine_options
from befit.store.catalogue import DEFAULT_MODEL


@click.command("throughput")
@click.argument("model", default=DEFAULT_MODEL)
@click.option("--requests", type=POSITIVE, metavar="N", default=64, show_default=True)
@click.option("--prompt-tokens", type=POSITIVE, metavar="N", default=128, show_default=True)
@click.option("--output-tokens", type=POSITIVE, metavar="N", default=128, show_default=True)
@click.option("--max-seqs", type=POSITIVE, metavar="N", help="Requests that run at once.  [default: auto]")
@click.option("--token-budget", type=POSITIVE, metavar="N", help="Tokens that one step computes.  [default: auto]")
@seed_option
@engine_options
@output_options(plot=False)
def command(model: str, **options: Any) -> int:
    """Give the engine all requests at once, without a server, and measure how fast it is through them."""
    from befit.bench.machine import headline, machine
    from befit.bench.offline import throughput
    from befit.bench.report import make_result, table
    from befit.engine.load import load_model
    from befit.llm import LLM

    check_outputs(options["json_file"])
    info = machine()
    click.echo(headline(info))
    with LLM(load_model(model, to_engine_options(options), progress=True, report=click.echo)) as llm:
        run = throughput(
            llm,
            requests=options["requests"],
            prompt_tokens=options["prompt_tokens"],
            output_tokens=options["output_tokens"],
            seed=options["seed"],
        )
    columns = ["requests", "failed", "duration_s", "requests_per_s", "output_tok_s", "total_tok_s"]
    click.echo(table([[c.replace("_per_s", "/s").replace("_", " ") for c in columns], [run[c] for c in columns]]))
    finish(make_result("throughput", info, {"model": model, **settings(options)}, [run]), options["json_file"])
    return 1 if run["failed"] else 0
