"""`befit show`: what is in a model file or folder, read off its headers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from befit.models.program import Program


@click.command("show")
@click.argument("model")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
@click.option("--verify", is_flag=True, help="Read all of a built folder and compare every SHA-256 first.")
def command(model: str, as_json: bool, verify: bool) -> None:
    """Show what MODEL is: architecture, size, quantisation, context, tokeniser, chat template.

    Reads the file's headers only. A model that is not stored yet is not fetched.
    """
    import json

    from befit import store
    from befit.cli import text

    path = store.resolve(model, pull=False)
    if verify:
        if not store.is_build(str(path)):
            raise click.UsageError("--verify is for folders that befit build wrote; befit pull checks stored files.")
        from befit.prepared import read

        read.verify(path, progress=not as_json)
    facts = describe(path)
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    build = facts["build"]
    lines = [
        ["folder" if path.is_dir() else "file", facts["path"]],
        ["size", f"{text.size(facts['size'])} ({facts['size']:,} bytes)"],
        ["name", facts["name"] or "(none given)"],
        ["architecture", facts["architecture"]],
        ["parameters", f"{text.quantity(facts['parameters'])} ({facts['parameters']:,})"],
        ["layers", str(facts["layers"])],
        ["hidden size", f"{facts['hidden_size']:,}"],
        ["vocabulary", f"{facts['vocab_size']:,} tokens"],
        ["context", f"{facts['context']:,} tokens"],
        ["KV cache", ", ".join(f"{text.size(n)} a token as {kind}" for kind, n in facts["kv_bytes_per_token"].items())],
        ["quantisation", ", ".join(f"{kind} {share:.1%}" for kind, share in facts["quantisation"].items())],
        ["tokeniser", facts["tokenizer"]],
        ["chat template", facts["chat_template"]],
        ["fill-in-the-middle", f"as {fim}" if (fim := facts["fill_in_the_middle"]) else "no (no FIM tokens)"],
    ]
    if build:
        there = "" if Path(build["source"]).exists() else " (not there any more)"
        lines += [
            ["served as", build["served_name"]],
            ["built from", f"{build['source']}{there}"],
            ["source sha256", build["source_sha256"]],
            ["built for", f"the {build['backend']} backend"],
            ["built by", f"befit {build['befit']} at {build['built_at']}, packed layout {build['packed_layout']}"],
        ]
    lines += [["note", note] for note in facts["notes"]]
    if verify:
        lines.append(["verified", "every file has its size and SHA-256"])
    click.echo(text.table(lines))


def describe(path: Path) -> dict[str, Any]:
    """The facts of a model, ready for JSON. `quantisation` maps tensor types to shares of the weight bytes; `build` is
    null for a model that befit did not build; `notes` say what of it was not taken over exactly."""
    from befit import models, store
    from befit.weights.checkpoint import open_checkpoint

    if store.is_build(str(path)):
        return _describe_build(path)
    with open_checkpoint(path) as file:
        program = models.describe(file.metadata, file.shapes, lambda key: file.tensors[key].dequantize())
        parameters = sum(prod(shape) for shape in file.shapes.values())
        return _facts(path, file.size, program, file.metadata, parameters, file.types) | {"notes": file.notes}


def _describe_build(path: Path) -> dict[str, Any]:
    from befit.prepared.read import open_build

    build = open_build(path)
    build.close()
    manifest = build.manifest
    shapes = {section.name: section.shape for section in build.sections}
    types = [(section.kind.upper(), section.nbytes) for section in build.sections]
    parameters = sum(prod(shape) for shape in shapes.values())
    return _facts(path, build.size, build.program, build.metadata, parameters, types) | {
        "build": {
            "served_name": manifest.name,
            "source": manifest.source[0].path,
            "source_sha256": manifest.source[0].sha256,
            "befit": manifest.befit,
            "backend": manifest.backend,
            "packed_layout": manifest.packed_layout,
            "built_at": manifest.built_at,
        }
    }


def _facts(
    path: Path,
    size: int,
    program: Program,
    metadata: Mapping[str, Any],
    parameters: int,
    types: Iterable[tuple[str, int]],
) -> dict[str, Any]:
    from befit import tokenizer
    from befit.api.chat import ChatTemplate
    from befit.api.fim import FimFormat

    made = tokenizer.load(metadata)
    fim = FimFormat.find(made)
    template = ChatTemplate.from_metadata(metadata, made, beside=path)
    return {
        "path": str(path),
        "size": size,
        "name": metadata.get("general.name"),
        "architecture": program.family,
        "parameters": parameters,
        "layers": program.n_layers,
        "hidden_size": program.hidden_size,
        "vocab_size": program.vocab_size,
        "context": program.max_context,
        "kv_bytes_per_token": {kind: program.kv_bytes_per_token(kind) for kind in ("f16", "int8")},
        "quantisation": _shares(types),
        "tokenizer": _tokenizer(metadata),
        "chat_template": template.source,
        "fill_in_the_middle": None if fim is None else fim.name,
        "notes": [],
        "build": None,
    }


def _shares(types: Iterable[tuple[str, int]]) -> dict[str, float]:
    """The share of the weight bytes that each tensor type has, largest first."""
    totals: dict[str, int] = {}
    for name, nbytes in types:
        totals[name] = totals.get(name, 0) + nbytes
    everything = sum(totals.values())
    return {kind: count / everything for kind, count in sorted(totals.items(), key=lambda item: -item[1])}


def _tokenizer(metadata: Mapping[str, Any]) -> str:
    kind = str(metadata.get("tokenizer.ggml.model", "none"))
    if "tokenizer.huggingface.pipeline" in metadata:
        return f"{kind}, split as tokenizer.json says"
    rules = metadata.get("tokenizer.ggml.pre")
    return f"{kind}, split as {rules}" if rules else kind
