"""`befit plan`: does a model fit, how large and how fast, and what would fit instead."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

import click

from befit.cli.options import POSITIVE

if TYPE_CHECKING:
    from befit.plan.fit import Plan
    from befit.plan.machine import Machine


@click.command("plan")
@click.argument("model")
@click.option("--gpu", metavar="NAME", help='Plan for this card, as in "RTX 4060" or A100-80G.')
@click.option("--memory", metavar="SIZE", help="Plan for so much memory, as in 8GiB.  [default: what is free]")
@click.option("--ctx", type=POSITIVE, metavar="N", help="Tokens of a context.  [default: what fits, 8192 at most]")
@click.option("--seqs", type=POSITIVE, metavar="N", default=1, show_default=True, help="Sequences at once.")
@click.option(
    "--kv-dtype", type=click.Choice(["f16", "int8", "fp8"]), default="f16", show_default=True, help="KV cache in."
)
@click.option(
    "--bits",
    type=click.Choice(["8", "6", "5", "4"]),
    help="As if the weights were quantised to so many bits.  [default: as they are]",
)
@click.option("--token-budget", type=POSITIVE, metavar="N", default=512, show_default=True, help="Tokens of a step.")
@click.option("--prompt", type=POSITIVE, metavar="N", default=1024, show_default=True, help="Tokens of a prompt.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
@click.pass_context
def command(
    context: click.Context,
    model: str,
    gpu: str | None,
    memory: str | None,
    ctx: int | None,
    seqs: int,
    kv_dtype: str,
    bits: str | None,
    token_budget: int,
    prompt: int,
    as_json: bool,
) -> None:
    """Say whether MODEL fits a machine, and what would, without loading or fetching it.

    MODEL is a GGUF file, a folder with a config.json, a stored or known name, or hf:OWNER/REPOSITORY[@REVISION][:FILE],
    of which only headers are read. The machine is this one and the NVIDIA cards in it, unless --gpu or --memory name
    another. Speeds are bounds, not predictions. Exit status 1 when it does not fit.
    """
    import json

    from befit.errors import ConfigError
    from befit.plan import fit, machine, source

    found = source.find(model)
    if bits is not None:
        name, width = next(each for each in fit.QUANTISATIONS if each[0].startswith(bits))
        found = found.requantised(width, name)
    longest = found.program.max_context
    if ctx is not None and ctx > longest:
        raise ConfigError(f"ctx is {ctx} but the model allows {longest} tokens; set ctx to at most {longest}.")
    wish = fit.Wish(ctx=ctx or longest, seqs=seqs, kv_dtype=kv_dtype, token_budget=token_budget, prompt=prompt)
    this = cache(machine.this_cpu)  # measured once, and only where it is asked for
    targets: list[Machine] = [machine.named_card(gpu)] if gpu else [this(), *machine.these_cards()]
    if memory is not None:
        targets = [machine.limited(targets[0], machine.parse_size(memory))]
    wishes = [wish if ctx else fit.choose_ctx(found, each, wish) for each in targets]
    hosts = [this if each.kind == "gpu" else None for each in targets]
    plans = [fit.make(found, *each) for each in zip(targets, wishes, hosts, strict=True)]
    if as_json:
        click.echo(json.dumps({"fits": any(plan.fits for plan in plans), "plans": list(map(facts, plans))}, indent=2))
    else:
        click.echo("\n\n".join("\n".join(_lines(plan)) for plan in plans))
    context.exit(0 if any(plan.fits for plan in plans) else 1)


def facts(plan: Plan) -> dict[str, Any]:
    """A plan, ready for JSON. Sizes in bytes, times in seconds."""
    from befit.plan.memory import kv_bytes_per_token

    model, machine, budget = plan.model, plan.machine, plan.budget
    return {
        "fits": plan.fits,
        "model": {
            "name": model.name,
            "origin": model.origin,
            "architecture": model.family,
            "parameters": model.parameters,
            "active_parameters": model.active_parameters,
            "stored": model.stored,
            "runs": model.why_not is None,
            "why_not": model.why_not,
            "context": model.program.max_context,
            "layers": model.program.n_layers,
            "weight_bytes": dict(model.weights),
            "memory_bytes": dict(model.memory),
            "kv_bytes_per_token": kv_bytes_per_token(model.program, plan.wish.kv_dtype),
        },
        "machine": {
            "name": machine.name,
            "kind": machine.kind,
            "available": machine.available,
            "bandwidth": machine.bandwidth,
            "source": machine.source,
        },
        "wish": {name: getattr(plan.wish, name) for name in plan.wish.__slots__},
        "bytes": {
            "weights": budget.weights,
            "kv_cache": budget.kv,
            "activations": budget.activations,
            "overhead": budget.overhead,
            "reserve": budget.reserve,
            "total": budget.total,
            "available": budget.available,
        },
        "largest_ctx": plan.largest_ctx,
        "most_seqs": plan.most_seqs,
        "bounds": {
            "decode_tokens_per_second_empty": plan.decode_empty,
            "decode_tokens_per_second_full": plan.decode_full,
            "seconds_to_first_token": plan.ttft,
        },
        "alternatives": [{name: getattr(each, name) for name in each.__slots__} for each in plan.alternatives],
    }


def _lines(plan: Plan) -> Iterator[str]:
    from befit.cli import text
    from befit.plan.memory import kv_bytes_per_token

    model, machine, budget, wish = plan.model, plan.machine, plan.budget, plan.wish
    program = model.program
    kv_token = kv_bytes_per_token(program, wish.kv_dtype)
    active = f", {text.quantity(model.active_parameters)} a token" if model.used < 1 else ""
    yield f"{model.name}: {model.family}, {text.quantity(model.parameters)} parameters{active}, {model.stored}"
    yield f"  ({model.origin})"
    if model.why_not is not None:
        yield f"  note: {model.why_not}"
    yield f"on {machine.name}: {text.size(machine.available)} ({machine.source})"
    if machine.kind == "gpu":
        yield "  note: befit computes on the CPU; for a card this is arithmetic"
    yield ""
    weights = model.memory if machine.kind == "cpu" else model.weights
    parts = ", ".join(f"{kind} {text.size(size)}" for kind, size in weights.items())
    kept = f"; {text.size(model.weight_bytes)} as stored" if budget.weights != model.weight_bytes else ""
    windowed = sum(op.window is not None for op in program.attentions())
    note = f"; {windowed} layers look back no further than their window" if windowed else ""
    sequences = f"{wish.seqs} sequences of " if wish.seqs > 1 else ""
    cpu = machine.kind == "cpu"
    rows = [
        ["weights", text.size(budget.weights), parts + kept],
        [
            "KV cache",
            text.size(budget.kv),
            f"{sequences}{wish.ctx:,} tokens of {kv_token:,} bytes, {wish.kv_dtype}, {program.n_layers} layers{note}",
        ],
        ["activations", text.size(budget.activations), f"{wish.token_budget} tokens a step"],
        [
            "process",
            text.size(budget.overhead),
            "Python, its libraries, the tokeniser" if cpu else "CUDA and its libraries",
        ],
        ["reserve", text.size(budget.reserve), "stays free"],
        ["together", text.size(budget.total), f"of {text.size(budget.available)}: {_verdict(plan)}"],
    ]
    yield text.table(rows, indent="  ")
    yield ""
    rows = [
        ["largest context", f"{plan.largest_ctx:,} tokens in one sequence (the model allows {program.max_context:,})"],
        ["parallel", f"{plan.most_seqs:,} sequences of {wish.ctx:,} tokens"],
    ]
    if plan.decode_empty is not None and plan.decode_full is not None and machine.bandwidth is not None:
        speed = f"{plan.decode_empty:.1f} tokens/s at most, {plan.decode_full:.1f} with {wish.ctx:,} tokens of context"
        rows.append(["decoding", f"{speed} ({machine.bandwidth / 1e9:.0f} GB/s)"])
    if plan.ttft is not None:
        rows.append(["first token", f"{plan.ttft:.2f} s at least, for a prompt of {wish.prompt:,} tokens"])
    yield text.table(rows if plan.fits else rows[:1], indent="  ")
    if not plan.fits:
        yield ""
        if not plan.alternatives:
            yield "Nothing that befit knows of would fit: take a smaller model."
            return
        yield "What would fit, what costs least first:"
        table = [["", "needs", "longest context", "tokens/s at most"]]
        for each in plan.alternatives:
            bound = "" if each.decode is None else f"{each.decode:.1f}"
            table.append([f"{each.kind}: {each.what}", text.size(each.total), f"{each.ctx:,}", bound])
        yield text.table(table, indent="  ")


def _verdict(plan: Plan) -> str:
    from befit.cli import text

    over = plan.budget.total - plan.budget.available
    return f"does not fit, {text.size(over)} too much" if over > 0 else f"fits, {text.size(-over)} to spare"
