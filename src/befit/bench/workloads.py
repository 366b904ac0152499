"""What a load asks for. A workload makes the prompts of a run one by one, the same for the same seed.

random         different prompts of --prompt-tokens
code-mix       half of the prompts have 128 tokens and half 512, with 256 tokens out
shared-prefix  all prompts begin with the same system prompt of --prefix-tokens, then have --prompt-tokens of their own
editor         each session sends one growing document again and again, with a few words typed in the middle since
rewrite        a code file of 60 lines to write again with one name changed; the output is about the file's length
file           the prompts of a JSONL file
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from befit.bench.calibrate import FIRST, Counter, Vocabulary, calibrate
from befit.bench.source import rewriting
from befit.bench.target import Prompt, Target
from befit.errors import ConfigError

NAMES = ("random", "code-mix", "shared-prefix", "editor", "rewrite", "file")
TYPED = 4
"""Words that an editor's session types between two requests."""

Prompts: TypeAlias = Callable[[int], Prompt]


@dataclass(frozen=True, slots=True)
class Workload:
    """`start(run, sessions)` gives the prompts of a run by number. Runs of different names share no prompt.

    by_session: request i belongs to session i % sessions, whose requests follow each other.
    distinct: so many different prompts there are; None: any number.
    """

    name: str
    start: Callable[[str, int], Prompts]
    by_session: bool = False
    distinct: int | None = None
    reference: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Tokens of prompts, outputs and shared prefixes; None is the workload's own default."""

    prompt: int | None = None
    output: int | None = None
    prefix: int | None = None


def make_workload(name: str, target: Target, lengths: Lengths, seed: int, file: Path | None = None) -> Workload:
    """The workload of that name for a server, which is asked for its counting of tokens.

    Raises ConfigError for lengths that are not possible, BenchmarkFailed when the server cannot be asked.
    """
    if (file is not None) != (name == "file"):
        raise ConfigError("--workload file needs --prompts FILE, and the others take none.")
    if name == "file":
        assert file is not None
        return _from_file(file, target, lengths)
    vocabulary = calibrate(target, system=name == "shared-prefix")
    key = (
        f"{seed} {name} {lengths.prompt} {lengths.prefix}"  # other workloads have other prompts, also for the same seed
    )
    if name == "random":
        return _random(vocabulary, lengths, key)
    if name == "code-mix":
        return _code_mix(vocabulary, lengths, key)
    if name == "shared-prefix":
        return _shared_prefix(vocabulary, lengths, key)
    if name == "editor":
        return _editor(vocabulary, lengths, key)
    if name == "rewrite":
        return _rewrite(vocabulary, Counter(target), lengths, key, chat=target.chat)
    raise ConfigError(f"The workload is {name!r}; choose one of {', '.join(NAMES)}.")


def _rng(key: str, *names: object) -> random.Random:
    return random.Random(" ".join(map(str, (key, *names))))


def _random(vocabulary: Vocabulary, lengths: Lengths, key: str) -> Workload:
    tokens, output = lengths.prompt or 128, lengths.output or 128

    def start(run: str, _sessions: int) -> Prompts:
        return lambda i: Prompt(vocabulary.text(_rng(key, run, i), tokens), output, tokens=tokens)

    return Workload("random", start)


def _code_mix(vocabulary: Vocabulary, lengths: Lengths, key: str) -> Workload:
    if lengths.prompt is not None:
        raise ConfigError("--workload code-mix has prompts of 128 and 512 tokens; leave out --prompt-tokens.")
    output = lengths.output or 256

    def start(run: str, _sessions: int) -> Prompts:
        def prompt(i: int) -> Prompt:
            # Each pair of requests has one of either length, in an order of its own.
            tokens = 128 if (i % 2 == 0) == (_rng(key, run, "pair", i // 2).random() < 0.5) else 512
            return Prompt(vocabulary.text(_rng(key, run, i), tokens), output, tokens=tokens)

        return prompt

    return Workload("code-mix", start)


def _shared_prefix(vocabulary: Vocabulary, lengths: Lengths, key: str) -> Workload:
    prefix, own, output = lengths.prefix or 1024, lengths.prompt or 128, lengths.output or 128

    def start(run: str, _sessions: int) -> Prompts:
        # The first words of both parts, and whatever the server adds, count as the prefix.
        system = vocabulary.text(_rng(key, run, "system"), prefix, system=True)

        def prompt(i: int) -> Prompt:
            text = " ".join([FIRST, *vocabulary.more(_rng(key, run, i), own)])
            return Prompt(text, output, system=system, tokens=prefix + own)

        return prompt

    return Workload("shared-prefix", start)


def _editor(vocabulary: Vocabulary, lengths: Lengths, key: str) -> Workload:
    tokens, output = lengths.prompt or 1500, lengths.output or 16

    def start(run: str, sessions: int) -> Prompts:
        documents: dict[int, list[str]] = {}

        def prompt(i: int) -> Prompt:
            session, version = i % sessions, i // sessions
            if session not in documents:
                documents[session] = vocabulary.text(_rng(key, run, session), tokens).split(" ")
            words = documents[session]
            cursor = len(words) // 2
            typed = vocabulary.more(_rng(key, run, session, "typed"), TYPED * version)
            text = " ".join([*words[:cursor], *typed, *words[cursor:]])
            return Prompt(text, output, tokens=tokens + TYPED * version)

        return prompt

    return Workload("editor", start, by_session=True)


def _rewrite(vocabulary: Vocabulary, counter: Counter, lengths: Lengths, key: str, *, chat: bool) -> Workload:
    if lengths.prompt is not None:
        raise ConfigError("--workload rewrite has prompts of its own length; leave out --prompt-tokens.")
    file = rewriting(_rng(key, "length"), chat=chat).after
    output = lengths.output or counter.tokens(file) - vocabulary.base + (8 if chat else 0)  # a chat fences its code

    def start(run: str, _sessions: int) -> Prompts:
        def prompt(i: int) -> Prompt:
            task = rewriting(_rng(key, run, i), chat=chat)
            return Prompt(task.prompt, output, reference=task.after)

        return prompt

    return Workload("rewrite", start, reference=True)


def _from_file(file: Path, target: Target, lengths: Lengths) -> Workload:
    prompts = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            text, messages = entry.get("prompt", ""), entry.get("messages", ())
            output = entry.get("max_tokens", lengths.output or 128)
            if not isinstance(text, str) or bool(text) == bool(messages) or type(output) is not int or output < 1:
                raise ValueError("it needs a prompt or messages, and max_tokens, if any, of at least 1")
        except (ValueError, AttributeError) as error:
            raise ConfigError(f"{file}, line {number}, is not a prompt: {error}.") from None
        if messages and not target.chat:
            raise ConfigError(f"{file}, line {number}, has messages; add --chat to send them to a chat endpoint.")
        prompts.append(Prompt(text, output, messages=tuple(messages)))
    if not prompts:
        raise ConfigError(f"{file} holds no prompts; each line must be an object with a prompt or messages.")

    def start(_run: str, _sessions: int) -> Prompts:
        return lambda i: prompts[i % len(prompts)]

    return Workload("file", start, distinct=len(prompts))
