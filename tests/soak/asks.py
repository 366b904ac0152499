"""Requests of every protocol, and how their answers are read, whole or streamed.

All are deterministic: greedy, or sampled with a seed. So each has one right answer, the one that it gets alone.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

NAME = "soak"
WORDS = "def return self import for in range if else while class try except with open as print len list"
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "count": {"type": "integer"}},
    "required": ["name", "count"],
    "additionalProperties": False,
}
Texts = tuple[str, ...]


@dataclass(frozen=True)
class Protocol:
    """Where a request goes, streamed too; texts of a whole answer; (choice, piece) of a stream's event."""

    path: str
    stream_path: str
    whole: Callable[[Any], Texts]
    piece: Callable[[Any], Iterator[tuple[int, str]]]


def _completion(event: Any) -> Iterator[tuple[int, str]]:
    for choice in event.get("choices", ()):
        yield choice["index"], choice["text"]


def _chat(event: Any) -> Iterator[tuple[int, str]]:
    for choice in event.get("choices", ()):
        yield choice["index"], choice["delta"].get("content") or ""


def _anthropic(event: Any) -> Iterator[tuple[int, str]]:
    if event.get("type") == "content_block_delta":
        yield 0, event["delta"].get("text", "")


PROTOCOLS = {
    "completions": Protocol(
        "/v1/completions", "/v1/completions", lambda a: tuple(c["text"] for c in a["choices"]), _completion
    ),
    "chat": Protocol(
        "/v1/chat/completions",
        "/v1/chat/completions",
        lambda a: tuple(c["message"]["content"] or "" for c in a["choices"]),
        _chat,
    ),
    "anthropic": Protocol(
        "/v1/messages",
        "/v1/messages",
        lambda a: ("".join(block.get("text", "") for block in a["content"]),),
        _anthropic,
    ),
    "ollama": Protocol(
        "/api/generate", "/api/generate", lambda a: (a["response"],), lambda event: iter([(0, event["response"])])
    ),
    "llamacpp": Protocol(
        "/completion", "/completion", lambda a: (a["content"],), lambda event: iter([(0, event["content"])])
    ),
}


@dataclass(frozen=True)
class Ask:
    """One request. salted: whether a salt of the prefix cache may be added."""

    number: int
    kind: str
    protocol: str
    body: str
    salted: bool = False

    def request(self, *, stream: bool, salt: str = "") -> dict[str, Any]:
        body: dict[str, Any] = json.loads(self.body)
        if stream or self.protocol == "ollama":
            body["stream"] = stream
        if salt and self.salted:
            body["cache_salt"] = salt
        return body


def make_asks(count: int, seed: int, longest: int) -> list[Ask]:
    """`count` requests of all kinds; prompts have up to `longest` words, many with a common beginning."""
    rng = random.Random(seed)
    words = WORDS.split()
    shared = " ".join(rng.choices(words, k=max(1, longest // 2)))

    def prompt() -> str:
        text = " ".join(rng.choices(words, k=rng.randint(1, max(1, longest // 2))))
        return f"{shared} {text}" if rng.random() < 0.5 else text

    def tokens() -> int:
        return rng.choice([1, 8, 24, 48, 128])

    def completion(**wishes: Any) -> dict[str, Any]:
        return {"model": NAME, "prompt": prompt(), "max_tokens": tokens(), "temperature": 0, **wishes}

    def messages(**wishes: Any) -> dict[str, Any]:
        turn = [{"role": "user", "content": prompt()}]
        return {"model": NAME, "messages": turn, "max_tokens": tokens(), "temperature": 0, **wishes}

    def ask(number: int) -> Ask:
        kind, protocol, body, salted = rng.choice(kinds)(rng)
        return Ask(number, kind, protocol, json.dumps(body), salted)

    schema = {"type": "json_schema", "json_schema": {"name": "thing", "schema": SCHEMA}}
    repeated = "\n".join(f"item_{i} = Item(name='item {i}')" for i in range(6))
    kinds: list[Callable[[random.Random], tuple[str, str, dict[str, Any], bool]]] = [
        lambda r: ("greedy", "completions", completion(), True),
        lambda r: ("n", "completions", completion(n=3, temperature=0.9, seed=r.randint(0, 99)), True),
        lambda r: ("seeded", "completions", completion(temperature=0.8, top_p=0.9, seed=r.randint(0, 99)), True),
        lambda r: ("stop", "completions", completion(stop=["e", "\n"]), True),
        lambda r: ("copied", "completions", completion(prompt=f"{repeated}\n\n# again\n{repeated[:40]}"), True),
        lambda r: ("grammar", "chat", messages(response_format=schema), True),
        lambda r: ("chat", "chat", messages(), True),
        lambda r: ("anthropic", "anthropic", messages(), False),
        lambda r: (
            "ollama",
            "ollama",
            {"model": NAME, "prompt": prompt(), "options": {"num_predict": tokens(), "temperature": 0}},
            False,
        ),
        lambda r: ("llamacpp", "llamacpp", {"prompt": prompt(), "n_predict": tokens(), "temperature": 0}, False),
    ]
    return [ask(number) for number in range(count)]
