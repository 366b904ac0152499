"""`befit serve`: the HTTP server."""

from __future__ import annotations

from typing import Any

import click

from befit.cli.guard import guard_options, to_guard
from befit.cli.options import POSITIVE, chat_template_option, engine_options, to_engine_options
from befit.store.catalogue import DEFAULT_MODEL


@click.command("serve")
@click.argument("model", default=DEFAULT_MODEL)
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
    help="What clients call the model; given again, further names for it.  [default: MODEL's own name]",
)
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
    model: str,
    host: str,
    port: int,
    served_name: tuple[str, ...],
    chat_template: str | None,
    tool_parser: str,
    no_prefix_cache: bool,
    **values: Any,
) -> None:
    """Serve MODEL over the OpenAI API.

    Ctrl-C or SIGTERM stops taking requests, finishes the running ones and ends; a second one ends at once.
    """
    import logging

    from befit.api.listener import bind
    from befit.api.loading import Loading

    guard = to_guard(values)
    with bind(host, port) as listener:  # before loading: a port in use is told at once
        from befit.engine.load import load_model

        options = to_engine_options({**values, "prefix_cache": not no_prefix_cache})
        with Loading(listener):
            loaded = load_model(model, options, progress=True, report=click.echo, meanwhile=_import_server)
        from befit.api.app import create_app
        from befit.api.chat import ChatTemplate
        from befit.api.server import serve
        from befit.engine.async_engine import AsyncEngine

        template = ChatTemplate.from_metadata(loaded.metadata, loaded.tokenizer, file=chat_template, beside=loaded.path)
        click.echo(f"chat template: {template.source}")
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
        logging.getLogger("uvicorn").setLevel(logging.WARNING)
        engine = AsyncEngine(loaded)
        try:
            name, *aliases = served_name or (loaded.name,)
            app = create_app(
                engine,
                served_name=name,
                chat_template=template,
                aliases=aliases,
                tool_parser=None if tool_parser == "auto" else tool_parser,
                **guard,
            )
            tools = app.state.service.tools
            click.echo(f"tool calls: {tools.form.name} ({tools.why})")
            serve(app, engine, host, port, sock=listener, on_ready=_announce)
        finally:
            loaded.close()


def _import_server() -> None:
    """Import what serving needs: half of the start, unless it happens while weights are loaded."""
    import befit.api.app
    import befit.api.chat
    import befit.api.server
    import befit.engine.async_engine  # noqa: F401


def _announce(url: str) -> None:
    click.echo(f"Serving {url}/v1 (Ctrl-C ends it)")
