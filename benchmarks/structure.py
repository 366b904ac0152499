#!/usr/bin/env python3
"""Structured outputs and tool calls: are they valid, and what do they cost?

    python benchmarks/structure.py MODEL [--schemas 200] [--prompts 50] [--only schemas] [--out FILE]

schemas  one output at temperature 1 for each of so many random JSON schemas, checked by `jsonschema`; how many were
         closed as tokens ran out, and the CPU time of finding out, token by token, whether they can still be closed
bounded  the same for these schemas without additional properties and trees, which have no end
masks    CPU time that a mask takes, over all tokens of `schemas`
costs    the same for typical structures, 1 and 8 requests at once, and how much of it the model's step does not hide:
         how long after the median step of free outputs the last mask of a confined step was done
speed    tokens per second of 1 and of 8 requests, free and confined to a schema, in turn
tools    the official openai client asks a server for tool calls, at temperature 0 and 1, with tool_choice "auto" and
         "required": how many answers hold calls, and how many of those are of a known tool with arguments by its schema

Needs the packages of the extra `test`. Exit code 1 when an output is not valid.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import jsonschema
import openai

from befit.bench.machine import machine
from befit.engine.grammar import Grammar
from befit.engine.outputs import CLOSED_STOP_REASON
from befit.errors import InvalidRequest
from befit.llm import LLM
from befit.sampling import SamplingParams
from befit.structure import Structure, schema_text

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from support.schemas import bounded, random_schema

FORMATS = jsonschema.FormatChecker([name for name in jsonschema.FormatChecker.checkers if name != "time"])
"""Without that of `time`, which refuses the offsets that RFC 3339 demands."""


def tool(name: str, description: str, required: list[str], **properties: dict[str, Any]) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


AT_ONCE = 8
STRING, INTEGER = {"type": "string"}, {"type": "integer", "minimum": 1}
TOOLS = [
    tool("read_file", "Read a file, or some lines of it", ["path"], path=STRING, first_line=INTEGER, last_line=INTEGER),
    tool("search", "Search all files for text", ["text"], text=STRING, regex={"type": "boolean"}, folder=STRING),
    tool("run_command", "Run a shell command", ["command"], command=STRING, timeout_seconds=INTEGER),
    tool(
        "edit_file",
        "Replace text in a file",
        ["path", "old", "new"],
        path=STRING,
        old=STRING,
        new=STRING,
    ),
    tool(
        "list_folder",
        "List the files of a folder",
        ["path"],
        path=STRING,
        kinds={"type": "array", "items": {"enum": ["file", "folder"]}},
    ),
]
TASKS = [
    "Read the file {0}.py.",
    "Show me lines 10 to 20 of src/{0}.c.",
    "Find every place where {0} is called.",
    "Search the folder tests for the regular expression test_{0}.*",
    "Run the tests of {0} with pytest.",
    "Run make {0} and give it a minute at most.",
    'In {0}.txt, replace "colour" by "color".',
    "Rename the variable x to {0} in main.py.",
    "List what is in the folder {0}.",
    "Which sub-folders does {0}/data have?",
]
NAMES = ["parser", "größe", "user's", "a b", "C:\\temp", "index", "cache", "utils", "server", "main"]
PROMPTS = [task.format(name) for name in NAMES for task in TASKS]
COSTS = {
    "json_object": Structure("json", schema_text({"type": "object"}, param="schema")),
    "schema of a tool": Structure("json", schema_text(TOOLS[4]["function"]["parameters"], param="schema")),
    "array of an enum of 1000": Structure(
        "json",
        schema_text(
            {
                "type": "array",
                "items": {"enum": [f"{name} {at}" for at in range(250) for name in NAMES[5:9]]},
                "minItems": 9,
            },
            param="schema",
        ),
    ),
    "regex": Structure("regex", r"(\d{4}-\d\d-\d\d (INFO|WARN|ERROR) [A-Z][a-z]+( [a-z]{1,12}){3,9}\.\n){9}"),
}


@contextmanager
def timed_masks(seconds: list[float]) -> Iterator[None]:
    """Within it, the CPU seconds that each mask takes are noted."""
    original = Grammar.fill

    def timed(self: Grammar, masks: Any, drafts: list[int]) -> None:
        begin = time.thread_time()
        original(self, masks, drafts)
        seconds.extend([(time.thread_time() - begin) / len(masks)] * len(masks))

    Grammar.fill = timed  # type: ignore[method-assign]
    try:
        yield
    finally:
        Grammar.fill = original  # type: ignore[method-assign]


@contextmanager
def timed_looks(seconds: list[float]) -> Iterator[None]:
    """Within it, the CPU seconds of finding out for each token whether a structure can still be closed are noted."""
    original = Grammar.allows

    def timed(self: Grammar, token: int, left: int) -> bool:
        begin = time.thread_time()
        allowed = original(self, token, left)
        seconds.append(time.thread_time() - begin)
        return allowed

    Grammar.allows = timed  # type: ignore[method-assign]
    try:
        yield
    finally:
        Grammar.allows = original  # type: ignore[method-assign]


@contextmanager
def timed_steps(llm: LLM, steps: list[tuple[int, float, float]]) -> Iterator[None]:
    """Within it, (tokens, seconds, seconds from its beginning until its masks were done) of each step are noted."""
    backend: Any = llm.model.backend
    original = backend.step

    def timed(batch: Any) -> Any:
        begin = time.perf_counter()
        done = [begin]
        if batch.masks is not None:
            batch.masks.ready.add_done_callback(lambda _: done.append(time.perf_counter()))
        result = original(batch)
        steps.append((len(batch.tokens), time.perf_counter() - begin, done[-1] - begin))
        return result

    backend.step = timed
    try:
        yield
    finally:
        del backend.step


def costs(llm: LLM) -> dict[str, Any]:
    """What masks cost, and how much of that a step takes longer for."""
    found: dict[str, Any] = {}
    message = [{"role": "user", "content": "Write an example of what is wanted, a long one."}]
    for clients in (1, 8):
        usual = 0.0
        for name, structure in [("free", None), *COSTS.items()]:
            if structure is not None:
                llm.model.grammars.start(structure)
            steps: list[tuple[int, float, float]] = []
            seconds: list[float] = []
            params = [
                SamplingParams(temperature=1.0, seed=seed, max_tokens=64, ignore_eos=True, structure=structure)
                for seed in range(max(clients, 3))
            ]
            with timed_masks(seconds), timed_steps(llm, steps):
                for at in range(0, len(params), clients):
                    some = params[at : at + clients]
                    llm.chat([message] * len(some), some, use_tqdm=False)
            full = [step for step in steps if step[0] == clients]  # neither prompts nor a batch that has shrunk
            if structure is None:
                usual = statistics.median(step[1] for step in full)
                found[f"free, {clients}"] = {"step us": round(1e6 * usual)}
                continue
            late = [max(0.0, step[2] - usual) for step in full]
            found[f"{name}, {clients}"] = {
                **spread(seconds),
                "step us": round(1e6 * statistics.median(step[1] for step in full)),
                "steps that waited": round(sum(each > 0 for each in late) / len(late), 4),
                "not hidden, us a step": round(1e6 * statistics.mean(late), 1),
                "hidden": round(1 - sum(late) / sum(step[2] for step in full), 4),
            }
    return found


def schemas(llm: LLM, count: int, most: int, change: Callable[[Any], Any], seconds: list[float]) -> dict[str, Any]:
    """Valid outputs among those of random schemas."""
    conversations, params, made = [], [], []
    for seed in range(count):
        schema = change(random_schema(Random(seed)))
        text = json.dumps(schema, ensure_ascii=False)
        structure = Structure("json", schema_text(schema, param="schema"))
        conversations.append(
            [{"role": "user", "content": f"Write an example of what this JSON schema describes:\n{text}"}]
        )
        params.append(SamplingParams(temperature=1.0, seed=seed, max_tokens=most, structure=structure))
        made.append(schema)
    begin = time.perf_counter()
    refused = 0
    for structure in {one.structure.text: one.structure for one in params}.values():
        try:
            llm.model.grammars.start(structure)
        except InvalidRequest as error:
            refused += 1
            print(f"refused: {error}")
    compiling = time.perf_counter() - begin
    looks: list[float] = []
    with timed_masks(seconds), timed_looks(looks):
        answers = llm.chat(conversations, params, use_tqdm=False)
    result = {"schemas": count, "max_tokens": most, "refused": refused, "valid": 0, "cut": 0, "wrong": 0, "failed": 0}
    for schema, answer in zip(made, answers, strict=True):
        [output] = answer.outputs
        if output.finish_reason != "stop":
            result["cut" if output.finish_reason == "length" else "failed"] += 1
            continue
        try:
            jsonschema.Draft202012Validator(schema, format_checker=FORMATS).validate(json.loads(output.text))
            result["valid"] += 1
        except (ValueError, jsonschema.ValidationError) as error:
            result["wrong"] += 1
            print(f"wrong: {output.text[:200]!r}: {str(error)[:200]}")
    result["closed in time"] = sum(answer.outputs[0].stop_reason == CLOSED_STOP_REASON for answer in answers)
    result["looks at the way out"] = spread(looks)
    result["tokens"] = sum(len(answer.outputs[0].token_ids) for answer in answers)
    result["milliseconds to compile one"] = round(1000 * compiling / count, 2)
    return result


def spread(seconds: list[float]) -> dict[str, Any]:
    """In microseconds."""
    ordered = sorted(seconds)
    names = {"median": 0.5, "p90": 0.9, "p99": 0.99}
    found = {f"{name} us": round(1e6 * ordered[int(len(ordered) * part)], 1) for name, part in names.items()}
    mean = {"mean us": round(1e6 * statistics.mean(ordered), 1)}
    return {"masks": len(ordered), **mean, **found, "max us": round(1e6 * ordered[-1], 1)}


def speed(llm: LLM, rounds: int) -> dict[str, Any]:
    """Tokens per second, free and confined, with 1 and 8 requests; medians of rounds that take turns."""
    properties = {"name": STRING, "age": INTEGER}
    person = {"type": "object", "properties": properties, "required": ["name", "age"], "additionalProperties": False}
    many = {"type": "array", "items": person, "minItems": 100, "maxItems": 100}
    structure = Structure("json", schema_text(many, param="schema"))
    message = [{"role": "user", "content": "Write a JSON list of a hundred people with name and age."}]
    llm.model.grammars.start(structure)
    rates: dict[str, list[float]] = {}
    for _ in range(rounds):
        for clients in (1, 8):
            for name, wanted in (("free", None), ("confined", structure)):
                params = [
                    SamplingParams(temperature=1.0, seed=i, max_tokens=128, ignore_eos=True, structure=wanted)
                    for i in range(clients)
                ]
                begin = time.perf_counter()
                answers = llm.chat([message] * clients, params, use_tqdm=False)
                tokens = sum(len(answer.outputs[0].token_ids) for answer in answers)
                rates.setdefault(f"{name}, {clients}", []).append(tokens / (time.perf_counter() - begin))
    return {name: round(statistics.median(each), 1) for name, each in rates.items()}


def tools(model: str, count: int, threads: int | None) -> dict[str, Any]:
    """Calls in answers to prompts that ask for one."""
    command = [sys.executable, "-m", "befit.cli", "serve", model, "--port", "0"]
    command += ["--threads", str(threads)] if threads else []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, bufsize=1) as server:
        try:
            assert server.stdout is not None
            url = next(found[1] for line in server.stdout if (found := re.search(r"Serving (http://\S+/v1)", line)))
            client = openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=300)
            return {
                f"{choice}, temperature {temperature}": called(
                    client, choice, temperature, Random(0).sample(PROMPTS, count)
                )
                for choice in ("auto", "required")
                for temperature in (0.0, 1.0)
            }
        finally:
            server.terminate()


def called(client: openai.OpenAI, choice: Any, temperature: float, prompts: list[str]) -> dict[str, int]:
    """How many answers hold calls, how many of the calls can be parsed, and how many are by the tool's schema."""
    by_name = {one["function"]["name"]: one["function"]["parameters"] for one in TOOLS}
    found = {
        "prompts": len(prompts),
        "answers with calls": 0,
        "calls": 0,
        "JSON": 0,
        "known tool": 0,
        "by the schema": 0,
        "cut": 0,
    }

    def ask(seed: int) -> Any:
        messages: Any = [{"role": "user", "content": prompts[seed]}]
        return client.chat.completions.create(
            model="", messages=messages, tools=TOOLS, tool_choice=choice, temperature=temperature, seed=seed,
            max_tokens=300, parallel_tool_calls=False,
        )  # fmt: skip

    with ThreadPoolExecutor(AT_ONCE) as pool:
        answers = list(pool.map(ask, range(len(prompts))))
    for answer in answers:
        calls = answer.choices[0].message.tool_calls or []
        if answer.choices[0].finish_reason == "length":
            found["cut"] += 1
            continue
        found["answers with calls"] += bool(calls)
        for call in calls:
            found["calls"] += 1
            try:
                arguments = json.loads(call.function.arguments)
            except ValueError:
                print(f"not JSON: {call.function.arguments[:200]!r}")
                continue
            found["JSON"] += 1
            found["known tool"] += call.function.name in by_name
            schema = by_name.get(call.function.name, False)
            found["by the schema"] += jsonschema.Draft202012Validator(schema).is_valid(arguments)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--schemas", type=int, default=200)
    parser.add_argument("--prompts", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=["schemas", "bounded", "costs", "speed", "tools"])
    parser.add_argument("--threads", type=int, help="all cores unless given")
    parser.add_argument("--out", type=Path, help="what is in it of other models and parts stays")
    args = parser.parse_args()
    results: dict[str, Any] = {}
    if args.only != "tools":
        with LLM(args.model, ctx=4096, max_seqs=16, threads=args.threads) as llm:
            begin = time.perf_counter()
            llm.model.grammars.start(Structure("regex", "first"))
            results["first structure"] = {"seconds": round(time.perf_counter() - begin, 2)}
            if args.only in (None, "schemas"):
                seconds: list[float] = []
                results["schemas"] = schemas(llm, args.schemas, 512, lambda schema: schema, seconds)
                results["masks"] = spread(seconds)
            if args.only in (None, "bounded"):
                results["bounded"] = schemas(llm, args.schemas, 2048, bounded, [])
            if args.only in (None, "costs"):
                results["costs"] = costs(llm)
            if args.only in (None, "speed"):
                results["speed, tok/s"] = speed(llm, args.rounds)
    if args.only in (None, "tools"):
        results["tools"] = tools(args.model, args.prompts, args.threads)
    print(json.dumps(results, indent=1, ensure_ascii=False))
    if args.out:
        report = json.loads(args.out.read_text()) if args.out.exists() else {}
        report["machine"] = machine()
        report.setdefault(Path(args.model).stem, {}).update(results)
        args.out.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    sets = [results[name] for name in ("schemas", "bounded") if name in results]
    return int(any(one["wrong"] or one["failed"] for one in sets))


if __name__ == "__main__":
    sys.exit(main())
