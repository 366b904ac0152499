"""`befit bench peers`: befit beside other servers."""

from __future__ import annotations

from typing import Any

import click

from befit.cli.bench.options import Numbers, check_outputs, echo_all, finish, output_options, seed_option, settings
from befit.cli.options import POSITIVE


@click.command("peers")
@click.option(
    "--peer",
    "peers",
    multiple=True,
    required=True,
    metavar="NAME=…",
    help="A server's URL (http://HOST:PORT/v1), or the command that starts it, with {port} and {model} in it.",
)
@click.option(
    "--model", metavar="MODEL", help="Start befit with it. Without, the first --peer is compared with the others."
)
@click.option(
    "--befit", "befit_options", default="", metavar="OPTIONS", help="More options of befit serve, in one text."
)
@click.option("--clients", type=Numbers(), default="1,8,32", show_default=True)
@click.option("--prompt-tokens", type=POSITIVE, metavar="N", default=113, show_default=True)
@click.option("--output-tokens", type=POSITIVE, metavar="N", default=128, show_default=True)
@click.option(
    "--prefill-tokens",
    type=click.IntRange(min=0),
    metavar="N",
    default=512,
    show_default=True,
    help="One long prompt; 0 leaves it out.",
)
@click.option("--rewrite/--no-rewrite", default=True, show_default=True, help="Rewriting a 60-line file.")
@click.option("--repeat", type=POSITIVE, metavar="N", default=3, show_default=True, help="Rounds.")
@click.option("--alone", is_flag=True, help="Only one server at a time: each is started anew in each round.")
@click.option("--chat", is_flag=True, help="Use /chat/completions, not /completions.")
@seed_option
@output_options()
def command(**options: Any) -> int:
    """Run the same work on befit and on other servers, in turn, and print the ratios befit / peer.

    Of rates more is better, of times less. Exit status 1 when a request failed.
    """
    from befit import store
    from befit.bench.machine import headline, machine
    from befit.bench.peers import IDLE, Peer, Server, befit, compare, make_works, rows_of, summary
    from befit.bench.processes import ending_on_sigterm
    from befit.bench.report import make_result, serve_notes, table
    from befit.errors import ConfigError

    check_outputs(options["json_file"], options["plot"])
    model = str(store.resolve(options["model"])) if options["model"] else ""
    peers = [Peer.parse(text) for text in options["peers"]]
    if model:
        peers.insert(0, befit(options["befit_options"]))
    names = [peer.name for peer in peers]
    if len(names) < 2 or len({*names}) < len(names):
        raise ConfigError(f"There are {', '.join(names)}; at least two servers with different names are needed.")
    if not model and any("{model}" in peer.command for peer in peers):
        raise ConfigError("A command has {model}; give --model.")
    info = machine()
    click.echo(headline(info))
    works = []

    def make(target: Any) -> Any:
        works.extend(
            make_works(
                target,
                clients=[int(n) for n in options["clients"]],
                prompt_tokens=options["prompt_tokens"],
                output_tokens=options["output_tokens"],
                prefill_tokens=options["prefill_tokens"],
                rewrite=options["rewrite"],
                seed=options["seed"],
            )
        )
        return works

    servers = [Server(peer) for peer in peers]
    with ending_on_sigterm():
        runs = list(
            compare(
                servers,
                make,
                model=model,
                rounds=options["repeat"],
                alone=options["alone"],
                chat=options["chat"],
                report=lambda line: click.echo(line, err=True),
            )
        )
    summaries = summary(runs, {work.name: work.numbers for work in works}, names)
    click.echo(table(rows_of(summaries, names)))
    click.echo(f"ratio: {names[0]} / the server before it, median of {options['repeat']} rounds")
    for server in servers:
        if server.ready:
            click.echo(f"{server.name}: ready after {min(server.ready):.2f} s")
        if server.idle_cpu > IDLE:
            click.echo(
                f"Warning: {server.name} took {server.idle_cpu:.0%} of a core while others were measured; try --alone."
            )
    for run in runs:
        notes = [note for note in serve_notes(run) if note.startswith(("Error", "Warning"))]
        echo_all(notes, f"{run['work']}, {run['server']}, round {run['round'] + 1}: ")
    result = make_result("peers", info, {**settings(options), "names": names}, runs)
    result["summary"] = summaries
    finish(result, options["json_file"], options["plot"])
    return 1 if any(run["errors"] for run in runs) else 0
