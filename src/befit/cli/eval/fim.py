"""`befit eval fim`: holes in code that a model fills."""

from __future__ import annotations

from typing import Any

import click

from befit.cli.eval.options import bar, check_target, endpoint_options, opened
from befit.cli.options import POSITIVE

TOKENS = {"line": 48, "block": 192}
"""Asked for at most, by the kind of hole."""


@click.command("fim")
@endpoint_options
@click.option(
    "--kind",
    type=click.Choice(["line", "block"]),
    default="line",
    show_default=True,
    help="One line, or 2 to 8 lines of whole statements.",
)
@click.option("--holes", type=POSITIVE, metavar="N", default=50, show_default=True, help="Each in another module.")
@click.option("--seed", type=int, metavar="N", default=1, show_default=True, help="Of the choice of holes.")
def command(**options: Any) -> None:
    """Cut holes into the Python standard library and let a model fill them, over /infill.

    The model sees 800 characters before a hole and 300 after it, and answers greedily. Exact: as many lines of the
    answer as were cut are what was cut, spaces at the end aside. Edit similarity: 1 - Levenshtein distance / length.
    """
    import platform

    from befit.eval.endpoint import ask_all
    from befit.eval.fim import Hole, edit_similarity, fit, make_holes
    from befit.eval.journal import Journal

    kind = options["kind"]
    settings = {"judged": check_target(options), "kind": kind, "holes": options["holes"], "seed": options["seed"]}
    settings["python"] = platform.python_version()
    holes = make_holes(options["holes"], options["seed"], kind)
    journal = Journal(options["json_file"], settings)
    left = [hole for hole in holes if _key(hole) not in journal.items]
    stop = ["\n"] if kind == "line" else []
    with journal, opened(options) as endpoint, bar(len(holes), "FIM", len(holes) - len(left)) as show:

        def ask(hole: Hole) -> dict[str, Any]:
            answer = fit(endpoint.infill(hole.prefix, hole.suffix, max_tokens=TOKENS[kind], stop=stop).text, hole)
            similarity = edit_similarity(answer, hole.middle)
            return {"exact": answer == hole.middle, "similarity": similarity, "middle": hole.middle, "answer": answer}

        def done(hole: Hole, item: dict[str, Any]) -> None:
            journal.add(_key(hole), item)
            show.update()

        ask_all(left, ask, options["concurrency"], done)
        items = journal.items.values()
        exact, similarity = sum(item["exact"] for item in items), sum(item["similarity"] for item in items)
        journal.summary = {"exact": exact, "holes": len(holes), "edit_similarity": similarity / len(holes)}
    click.echo(f"exact            {exact} of {len(holes)} ({exact / len(holes):.0%})")
    click.echo(f"edit similarity  {similarity / len(holes):.3f}")
    if options["json_file"]:
        click.echo(f"wrote {options['json_file']}")


def _key(hole: Any) -> str:
    return f"{hole.module}#{hole.line}"
