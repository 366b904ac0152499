"""`befit show`: what is in a model file, read off its headers."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from befit.weights.gguf import GGUFFile, TensorInfo


@click.command("show")
@click.argument("model")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
def command(model: str, as_json: bool) -> None:
    """Show what MODEL is: architecture, size, quantisation, context, tokeniser, chat template.

    Reads the file's headers only. A model that is not stored yet is not fetched.
    """
    import json

    from befit import store
    from befit.cli import text

    facts = describe(store.resolve(model, pull=False))
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    lines = [
        ["file", facts["path"]],
        ["size", f"{text.size(facts['size'])} ({facts['size']:,} bytes)"],
        ["name", facts["name"] or "(none given)"],
        ["architecture", facts["architecture"]],
        ["parameters", f"{text.quantity(facts['parameters'])} ({facts['parameters']:,})"],
        ["layers", str(facts["layers"])],
        ["hidden size", f"{facts['hidden_size']:,}"],
        ["vocabulary", f"{facts['vocab_size']:,} tokens"],
        ["context", f"{facts['context']:,} tokens, {text.size(facts['kv_bytes_per_token'])} of KV cache each"],
        ["quantisation", ", ".join(f"{kind} {share:.1%}" for kind, share in facts["quantisation"].items())],
        ["tokeniser", facts["tokenizer"]],
        ["chat template", facts["chat_template"]],
    ]
    click.echo(text.table(lines))


def describe(path: Path) -> dict[str, Any]:
    """The facts of a model file, ready for JSON. `quantisation` maps tensor types to shares of the weight bytes."""
    from befit import models, tokenizer
    from befit.api.chat import ChatTemplate
    from befit.weights.gguf import GGUFFile

    with GGUFFile.open(path) as file:
        program = models.describe(file.metadata, file.shapes)
        template = ChatTemplate.from_metadata(file.metadata, tokenizer.load(file.metadata))
        return {
            "path": str(path),
            "size": file.size,
            "name": file.metadata.get("general.name"),
            "architecture": program.family,
            "parameters": sum(prod(shape) for shape in file.shapes.values()),
            "layers": program.n_layers,
            "hidden_size": program.hidden_size,
            "vocab_size": program.vocab_size,
            "context": program.max_context,
            "kv_bytes_per_token": program.kv_bytes_per_token(),
            "quantisation": _shares(file.infos.values()),
            "tokenizer": _tokenizer(file),
            "chat_template": template.source,
        }


def _shares(infos: Iterable[TensorInfo]) -> dict[str, float]:
    """The share of the weight bytes that each tensor type has, largest first."""
    totals: dict[str, int] = {}
    for info in infos:
        totals[info.type.name] = totals.get(info.type.name, 0) + info.nbytes
    everything = sum(totals.values())
    return {kind: count / everything for kind, count in sorted(totals.items(), key=lambda item: -item[1])}


def _tokenizer(file: GGUFFile) -> str:
    kind = str(file.metadata.get("tokenizer.ggml.model", "none"))
    rules = file.metadata.get("tokenizer.ggml.pre")
    return f"{kind}, split as {rules}" if rules else kind
