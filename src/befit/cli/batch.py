"""`befit batch`: a file of requests, answered into another one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from befit.cli.options import POSITIVE, chat_template_option, engine_options, to_engine_options
from befit.store.catalogue import DEFAULT_MODEL


@click.command("batch")
@click.argument("source", metavar="IN", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("target", metavar="OUT", type=click.Path(dir_okay=False, path_type=Path))
@click.argument("model", default=DEFAULT_MODEL)
@click.option("--served-name", metavar="NAME", help="What the requests call the model.  [default: MODEL's own name]")
@chat_template_option
@engine_options
@click.option("--max-seqs", type=POSITIVE, metavar="N", help="Requests that run at once.  [default: auto]")
@click.option("--token-budget", type=POSITIVE, metavar="N", help="Tokens that one step computes.  [default: auto]")
@click.option("--kv-tokens", type=POSITIVE, metavar="N", help="Tokens that the KV cache holds.  [default: auto]")
def command(
    source: Path, target: Path, model: str, served_name: str | None, chat_template: Path | None, **values: Any
) -> int:
    """Answer the requests of IN, a file in OpenAI's batch format, into OUT.

    MODEL runs in this process, without a server. A run that was ended goes on where it was: give the same files again.
    The exit status is 1 when lines of this run failed; what is wrong with each is in its line of OUT.
    """
    import asyncio

    from befit.api.app import create_app
    from befit.api.chat import ChatTemplate
    from befit.api.openai.batch import Totals, count_lines, run_batch
    from befit.engine.async_engine import AsyncEngine
    from befit.engine.load import load_model

    loaded = load_model(model, to_engine_options(values), progress=True)
    try:
        template = ChatTemplate.from_metadata(loaded.metadata, loaded.tokenizer, file=chat_template)
        engine = AsyncEngine(loaded)
        app = create_app(engine, served_name=served_name or loaded.name, chat_template=template)

        async def run() -> Totals:
            from tqdm import tqdm  # type: ignore[import-untyped]

            await engine.start()
            try:
                with tqdm(total=count_lines(source), desc="Answering", unit="req", dynamic_ncols=True) as bar:

                    def show(totals: Totals) -> None:
                        bar.update(totals.before + totals.answered + totals.failed - bar.n)

                    at_once = min(2 * loaded.config.max_seqs, loaded.config.max_queue)
                    return await run_batch(app, source, target, at_once=at_once, on_done=show)
            finally:
                await engine.stop()

        totals = asyncio.run(run())
    finally:
        loaded.close()
    before = f", {totals.before} were there" if totals.before else ""
    click.echo(f"{target}: {totals.answered} answered, {totals.failed} failed{before}", err=True)
    return 1 if totals.failed else 0
