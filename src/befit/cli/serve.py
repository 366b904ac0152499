"""`befit serve`: the HTTP server."""

from __future__ import annotations

from typing import Any

import click

from befit.cli.guard import guard_options, to_guard
from befit.cli.options import POSITIVE, chat_template_option, engine_options, to_engine_options
from befit.store.catalogue import DEFAULT_MODEL


@click.command("serve")
@click.argument("models", metavar="[MODEL]...", nargs=-1)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 is all of them.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    metavar="N",
    default=8000,
    show_default=True,
    help="Port to listen on; 0 takes a free one.",
)
@click.option(
    "--served-name",
    metavar="NAME",
    multiple=True,
    help="What clients call the (first) model; given again, further names for it.  [default: MODEL's own name]",
)
@click.option("--preload", is_flag=True, help="Load all MODELs at the start, not only the first.")
@click.option("--any-model", is_flag=True, help="Load any stored model that a request names; let clients manage them.")
@click.option("--pull", is_flag=True, help="With --any-model: fetch what a request names and is not stored.")
@chat_template_option
@click.option(
    "--tool-parser",
    type=click.Choice(["auto", "hermes", "llama3", "pythonic", "mistral", "deepseek", "gemma", "json"]),
    default="auto",
    show_default=True,
    help="How the model writes tool calls; auto tells it by template and vocabulary.",
)
@guard_options
@engine_options
@click.option("--max-seqs", type=POSITIVE, metavar="N", help="Requests that run at once; more wait.  [default: auto]")
@click.option("--token-budget", type=POSITIVE, metavar="N", help="Tokens that one step computes.  [default: auto]")
@click.option("--kv-tokens", type=POSITIVE, metavar="N", help="Tokens that the KV cache holds.  [default: auto]")
@click.option("--max-queue", type=POSITIVE, metavar="N", default=4096, show_default=True, help="Requests that wait.")
@click.option(
    "--max-output-tokens",
    type=POSITIVE,
    metavar="N",
    help="Tokens of an answer to a request without max_tokens.  [default: what the context holds]",
)
@click.option("--no-prefix-cache", is_flag=True, help="Compute equal beginnings of prompts anew each time.")
def command(
    models: tuple[str, ...],
    host: str,
    port: int,
    served_name: tuple[str, ...],
    preload: bool,
    any_model: bool,
    pull: bool,
    chat_template: str | None,
    tool_parser: str,
    no_prefix_cache: bool,
    **values: Any,
) -> None:
    """Serve MODEL over the OpenAI API, and those of Anthropic, Ollama, TGI and llama.cpp.

    Requests that name no model get the first MODEL; the others are loaded when a request names them, as far as memory
    allows. Ctrl-C or SIGTERM stops taking requests, finishes the running ones and ends; a second one ends at once.
    """
    import logging

    from befit.api.listener import bind
    from befit.api.loading import Loading

    if pull and not any_model:
        raise click.UsageError("--pull goes with --any-model.")
    guard = to_guard(values)
    with bind(host, port) as listener:  # before loading: a port in use is told at once
        from befit.api.models.loader import ModelLoader

        loader = ModelLoader(
            to_engine_options({**values, "prefix_cache": not no_prefix_cache}),
            first=(models or (DEFAULT_MODEL,))[0],
            chat_template=chat_template,
            tool_parser=None if tool_parser == "auto" else tool_parser,
            several=len(models) > 1 or any_model,
            stored=any_model,
            pull=pull,
        )
        others = loader.others(models[1:])
        with Loading(listener):
            first = loader.load_first(served_name, _say, _import_server)
        from befit.api.app import create_fleet_app
        from befit.api.models.fleet import Fleet
        from befit.api.server import serve

        if first.service is not None:
            _say(f"chat template: {first.service.template.source}")
            _say(f"tool calls: {first.service.tools.form.name} ({first.service.tools.why})")
        for member in others:
            _say(f"{'loaded too' if preload else 'loaded when it is asked for'}: {member.name}")
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
        logging.getLogger("uvicorn").setLevel(logging.WARNING)
        app = create_fleet_app(Fleet([first, *others], loader, preload=preload), **guard)
        serve(app, host, port, sock=listener, on_ready=_announce)


def _import_server() -> None:
    """Import what serving needs: half of the start, unless it happens while weights are loaded."""
    import befit.api.app
    import befit.api.chat
    import befit.api.server
    import befit.engine.async_engine  # noqa: F401


def _say(text: str) -> None:
    """Print a line. Where that goes to a disk that is full, the server is worth more than its words."""
    from befit import disk

    try:
        click.echo(text)
    except OSError as error:
        if error.errno not in disk.FULL:
            raise


def _announce(url: str) -> None:
    _say(f"Serving {url}/v1 (Ctrl-C ends it)")
