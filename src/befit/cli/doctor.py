"""`befit doctor`: one page on this machine, what would run well on it, and what is wrong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from befit.doctor.advice import Problem
    from befit.doctor.recommend import Recommendation


@click.command("doctor")
@click.option("--measure", is_flag=True, help="Start a small server too, and compare its memory with the prediction.")
@click.option("--model", metavar="MODEL", help="The model of --measure.  [default: the smallest that is stored]")
@click.option("--port", type=click.IntRange(1, 65535), metavar="N", default=8000, show_default=True, help="To look at.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
@click.pass_context
def command(context: click.Context, measure: bool, model: str | None, port: int, as_json: bool) -> None:
    """Look at this machine: what it has, what would run well, what is wrong and how to mend it.

    Takes a second; with --measure, some more. Exit status 1 when something is broken.
    """
    from befit.errors import ConfigError

    if model is not None and not measure:
        raise ConfigError("--model names the model of --measure; give both.")
    try:
        import befit.backends.native._native  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"befit's native module cannot be loaded ({error}), and nothing works without it: install befit anew, on "
            "the Python that runs it."
        ) from None
    import json
    from dataclasses import asdict

    from befit.doctor import advice, facts, recommend
    from befit.plan.machine import this_cpu

    this = this_cpu()
    found = facts.gather(this, port=port)
    found["peak"] = _measure(found, model) if measure else None
    recommended = recommend.recommend(this)
    problems = advice.problems(found)
    if as_json:
        more = {"recommended": list(map(asdict, recommended)), "problems": list(map(asdict, problems))}
        click.echo(json.dumps({**found, **more}, indent=2))
    else:
        click.echo("\n".join(_lines(found, recommended, problems)))
    context.exit(1 if any(problem.level == "broken" for problem in problems) else 0)


def _measure(found: dict[str, Any], model: str | None) -> dict[str, Any]:
    from befit.bench.memory import measure
    from befit.errors import ConfigError

    stored = [each for each in found["store"]["models"] if not each["problem"]]
    if model is None and not stored:
        raise ConfigError("No model is stored here to measure with; name one with --model, or fetch one first.")
    name = model or min(stored, key=lambda each: each["size"])["name"]
    run = measure(name, {"ctx": 512, "kv_tokens": 2048, "max_seqs": 4})
    return {"model": name, "predicted": run["predicted"]["together"], "measured": run["measured"]}


def _lines(found: dict[str, Any], recommended: Sequence[Recommendation], problems: Sequence[Problem]) -> Iterator[str]:
    from befit.cli import text

    cpu, memory, versions, store = found["cpu"], found["memory"], found["versions"], found["store"]
    cores = f"{cpu['cores']} core{'s' if cpu['cores'] > 1 else ''}"
    others = ", ".join(isa for isa in cpu["isas"] if isa != cpu["isa"])
    limit = f" (a cgroup allows {text.size(memory['limit'])})" if memory["limit"] is not None else ""
    count = len(store["models"])
    rows = [
        ["versions", ", ".join(f"{name} {number}" for name, number in versions.items() if number is not None)],
        ["system", found["os"]],
        ["CPU", f"{cpu['name']}, {cores}"],
        ["kernels", f"{cpu['isa']}{f'; {others} would run too' if others else ''}"],
        ["features", " ".join(cpu["features"]) or "none that befit knows"],
        [
            "memory",
            f"{text.size(memory['total'])}{limit}, {text.size(memory['available'])} free, of which "
            f"{text.size(memory['reserve'])} stay free",
        ],
        [
            "speed",
            f"{memory['bandwidth'] / 1e9:.1f} GB/s read, {memory['multiply_adds'] / 1e9:.0f} billion multiply-adds a "
            "second, measured now",
        ],
        ["graphics", "; ".join(_card(card) for card in found["cards"]) or "no NVIDIA card that a driver tells of"],
        [
            "models",
            f"{count} in {store['path']}, {text.size(store['size'])}; {text.size(store['free'])} of disk are free",
        ],
        ["peak memory", _peak(found["peak"])],
    ]
    if found["environment"]:
        rows.append(["environment", ", ".join(f"{name}={value}" for name, value in found["environment"].items())])
    yield text.table(rows)
    yield ""
    if recommended:
        yield "What would run well here (tokens a second are bounds):"
        cells = []
        for each in recommended:
            bound = "" if each.bound is None else f"{each.bound:.0f} tokens/s at most"
            cells.append([each.command, each.purpose, each.quantisation, text.size(each.memory), bound])
        yield text.table(cells, indent="  ")
    else:
        yield "No model that befit knows would run well here: it takes more memory."
    yield ""
    if not problems:
        yield "Nothing is wrong."
        return
    yield "What is wrong or worth knowing:"
    for problem in problems:
        yield f"  {problem.level}: {problem.what}"
        yield f"    {problem.mend}"


def _card(card: dict[str, Any]) -> str:
    from befit.cli import text

    return f"{card['name']}, {text.size(card['memory'])}, {text.size(card['free'])} free"


def _peak(peak: dict[str, Any] | None) -> str:
    from befit.cli import text

    if peak is None:
        return "not measured: befit doctor --measure starts a small server and compares"
    off = peak["predicted"] / peak["measured"] - 1
    return (
        f"{text.size(peak['predicted'])} predicted, {text.size(peak['measured'])} measured ({off:+.1%}), "
        f"a small server of {peak['model']}"
    )
