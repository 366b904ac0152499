#!/usr/bin/env python3
"""How often a served code model fills a hole exactly: single lines cut from the Python standard library.

    python benchmarks/fim.py NAME=URL [NAME=URL ...] [--holes 50] [--seed 1] [--json FILE]

Every server is asked through llama.cpp's `/infill`, which befit and llama.cpp both have, greedily, for one line, with
the 800 characters before the hole and the 300 after it. A hole is a line with a whole statement, its indent included,
as in Bavarian et al. (arXiv 2207.14255). Exact match: the answer's first line is what was cut, spaces at its end aside.
The holes depend on the seed and on the Python version, which is in the JSON together with every hole's answers.
"""

import argparse
import ast
import json
import platform
import random
import sys
import sysconfig
import urllib.request
from dataclasses import dataclass
from pathlib import Path

BEFORE, AFTER = 800, 300


@dataclass
class Hole:
    module: str
    line: int
    prefix: str
    suffix: str
    middle: str


def holes(count: int, seed: int) -> list[Hole]:
    """`count` holes, each in another module, in code lines of 10 to 80 characters that are not comments."""
    rng = random.Random(seed)
    folder = Path(sysconfig.get_path("stdlib"))
    paths = [path for path in sorted(folder.glob("*.py")) if not path.name.startswith("_")]
    rng.shuffle(paths)
    found = []
    for path in paths:
        if len(found) == count:
            break
        text = path.read_text(encoding="utf-8")
        lines = text.splitlines(keepends=True)
        candidates = sorted(_code_lines(text, lines))
        if not candidates:
            continue
        number = rng.choice(candidates)
        line = lines[number].rstrip("\n")
        prefix = "".join(lines[:number])
        suffix = "\n" + "".join(lines[number + 1 :])
        name = str(path.relative_to(folder))
        found.append(Hole(name, number + 1, prefix[-BEFORE:], suffix[:AFTER], line.rstrip()))
    if len(found) < count:
        raise SystemExit(f"There are {len(found)} modules with a hole; ask for at most that many.")
    return found


def _code_lines(text: str, lines: list[str]) -> set[int]:
    """Lines where a simple statement begins and ends, in functions, with something before and after."""
    wanted = set()
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        for inner in ast.walk(node):
            docstring = isinstance(inner, ast.Expr) and isinstance(inner.value, ast.Constant)
            if isinstance(inner, ast.stmt) and inner.lineno == inner.end_lineno and not docstring:
                line = lines[inner.lineno - 1]
                if 10 <= len(line.strip()) <= 80 and "#" not in line and ";" not in line:
                    wanted.add(inner.lineno - 1)
    return wanted


def fill(url: str, hole: Hole) -> str:
    """The first line of the server's answer."""
    body = {
        "input_prefix": hole.prefix,
        "input_suffix": hole.suffix,
        "n_predict": 48,
        "temperature": 0,
        "stop": ["\n"],
        "cache_prompt": False,
    }
    request = urllib.request.Request(f"{url}/infill", json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as response:
        content = json.load(response)["content"]
    return content.split("\n")[0].rstrip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("servers", nargs="+", metavar="NAME=URL")
    parser.add_argument("--holes", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    servers = dict(server.split("=", 1) for server in options.servers)
    rows = []
    for hole in holes(options.holes, options.seed):
        answers = {name: fill(url.rstrip("/"), hole) for name, url in servers.items()}
        rows.append((hole, answers))
        marks = " ".join(f"{name}:{'+' if text == hole.middle else '-'}" for name, text in answers.items())
        print(f"{hole.module}:{hole.line}  {marks}  {hole.middle.strip()[:60]}", file=sys.stderr)
    results = {
        name: {
            "exact": sum(answers[name] == hole.middle for hole, answers in rows),
            "holes": len(rows),
        }
        for name in servers
    }
    for name, result in results.items():
        share = result["exact"] / result["holes"]
        print(f"{name:<12} {result['exact']} of {result['holes']} exact ({share:.0%})")
    if options.json:
        report = {
            "seed": options.seed,
            "python": platform.python_version(),
            "results": results,
            "holes": [
                {"module": hole.module, "line": hole.line, "middle": hole.middle, "answers": answers}
                for hole, answers in rows
            ],
        }
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
