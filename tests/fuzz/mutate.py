"""Changes to JSON documents that leave them JSON, so that a fuzzer gets past the first parser."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Sequence
from typing import Any

ODD: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2**31, 2**63, 2**64, 10**30, 0.5, -0.0, 1e308, float("inf"), float("nan"), "", "\0",
    "\ud800", "\udc00\ud800", "é" * 300, "a" * 5000, [], {}, [[]], {"": None}, [0] * 300,
)  # fmt: skip


def json_mutator(words: Sequence[str]) -> Callable[[bytes, int, int], bytes]:
    """mutator(data, most bytes, seed) -> other data. words: what a target may know."""

    def mutator(data: bytes, most: int, seed: int) -> bytes:
        rng = random.Random(seed)
        try:
            value = json.loads(data)
        except (ValueError, RecursionError):
            value = rng.choice(words)
        for _ in range(rng.choice((1, 1, 2, 4))):
            value = _changed(value, rng, words)
        made = json.dumps(value).encode()
        return made if len(made) <= most else data

    return mutator


def _changed(value: Any, rng: random.Random, words: Sequence[str]) -> Any:
    """A document with one value, or key, that is another."""
    ways = _ways(value)
    way = rng.choice(ways)
    if not way:
        return _other(value, value, rng, words)
    *above, last = way
    holder = value
    for key in above:
        holder = holder[key]
    kind = rng.random()
    if kind < 0.1:
        del holder[last]
    elif kind < 0.2:
        key, item = rng.choice(words), copy.deepcopy(_at(value, rng.choice(ways)))
        if isinstance(holder, dict):
            holder[key] = item
        else:
            holder.insert(last, item)
    else:
        holder[last] = _other(holder[last], value, rng, words)
    return value


def _ways(value: Any) -> list[tuple[Any, ...]]:
    """How to get to each value inside; the first thousand of a large document's."""
    ways: list[tuple[Any, ...]] = [()]
    for way in ways:
        inside = _at(value, way)
        keys = list(inside) if isinstance(inside, dict) else range(len(inside)) if isinstance(inside, list) else ()
        ways += [(*way, key) for key in keys]
        if len(ways) > 1000:
            break
    return ways


def _at(value: Any, way: tuple[Any, ...]) -> Any:
    for key in way:
        value = value[key]
    return value


def _other(old: Any, whole: Any, rng: random.Random, words: Sequence[str]) -> Any:
    kind = rng.random()
    if kind < 0.2:
        return copy.deepcopy(rng.choice(ODD))
    if kind < 0.3:
        return copy.deepcopy(_at(whole, rng.choice(_ways(whole))))
    if kind < 0.4:
        return rng.choice(words)
    if isinstance(old, str):
        at, end = sorted(rng.choices(range(len(old) + 1), k=2))
        if kind < 0.8:
            return old[:at] + rng.choice(words) + old[rng.choice((at, end)) :]
        if kind < 0.9:
            return old[:at] + old[at:end] * 3 + old[end:]
        return old[:at] + chr(rng.choice((rng.randrange(128), rng.randrange(0x11000)))) + old[at + 1 :]
    if isinstance(old, bool) or old is None:
        return not old
    if isinstance(old, int | float):
        return rng.choice((old + 1, old - 1, -old, old * 2, old * 1000, str(old), rng.getrandbits(70)))
    if isinstance(old, list) and old:
        return rng.choice((old * 3, old[::-1], old[: len(old) // 2], [old]))
    return {rng.choice(words): old}
