"""Prompts whose length is known as the server counts it, without knowing its tokeniser.

The server is asked (`usage.prompt_tokens`, one token of output) how long a prompt of some words is; words that add
exactly one token each are kept. A prompt of n such words after a first one then has `base + n` tokens, where `base`
is what a prompt of the first word alone has, with whatever the server adds (a beginning-of-sequence token, a chat
template).
"""

from __future__ import annotations

import http.client
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from befit.bench.target import Prompt, Target
from befit.errors import BenchmarkFailed, ConfigError

FIRST = "def"
WANTED, LEAST, AT_ONCE = 96, 32, 16

_CANDIDATES = """
return self class import if else for while in range len list dict set str int float bool None True False try except
raise with open read write append pop sort key value index item node left right head tail next queue stack graph edge
cost path file line name data result count total buffer offset size parse token print assert yield lambda async from as
is not and or def global pass break continue del map filter zip sum min max abs all any sorted reverse join split strip
replace find format encode decode start end first last left top bottom width height time date year month day user id
type object function method module package test case check error message code text string number array matrix vector
point line shape color image page table row column cell field record order group level depth score weight rate limit
step state action event signal source target input output model layer batch epoch loss train update delete create get
put post send call wait lock free load save copy move build run stop the of to a one two three a b c d e f g h i j k l
m n o p q r s t u v w x y z
"""


def candidates() -> list[str]:
    """Words of code and English that most tokenisers have whole."""
    return list(dict.fromkeys(_CANDIDATES.split()))


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Words of one token each. base, system_base: tokens of a prompt of one word, alone and with a system prompt."""

    words: tuple[str, ...]
    base: int
    system_base: int

    def text(self, rng: random.Random, tokens: int, *, system: bool = False) -> str:
        """A random text that makes a prompt of so many tokens. Raises ConfigError when that is too few."""
        base = self.system_base if system else self.base
        if tokens < base:
            raise ConfigError(
                f"A prompt of {tokens} tokens is not possible: the server counts {base} for a single word "
                "(with its chat template, if any); ask for more."
            )
        return " ".join([FIRST, *self.more(rng, tokens - base)])

    def more(self, rng: random.Random, tokens: int) -> list[str]:
        """So many tokens to add to a prompt, as words."""
        return rng.choices(self.words, k=tokens)


class Counter:
    """Asks a server how many tokens a prompt has."""

    def __init__(self, target: Target) -> None:
        self.target = target

    def tokens(self, text: str, system: str = "") -> int:
        """`usage.prompt_tokens` of a prompt. Raises BenchmarkFailed when the server does not tell."""
        usage = self._answer(text, system).get("usage")
        count = usage.get("prompt_tokens") if isinstance(usage, dict) else None
        if type(count) is not int or count < 1:
            raise BenchmarkFailed(
                f"{self.target.url}{self.target.endpoint.removeprefix(self.target.path)} answers with usage {usage!r}: "
                "without usage.prompt_tokens prompts of a given length cannot be made; use --workload file."
            )
        return count

    def _answer(self, text: str, system: str) -> dict[str, Any]:
        """The whole answer of one token. A server that refuses a field beyond OpenAI's own is asked without it."""
        target = self.target
        while True:
            body = target.body(Prompt(text, 1, system=system), stream=False)
            try:
                status, raw = target.call("POST", target.endpoint, body)
                answer = json.loads(raw) if status == 200 else {}
            except (OSError, ValueError, http.client.HTTPException) as error:
                raise BenchmarkFailed(f"{target.url} does not answer a request of one token: {error!r}.") from None
            if status in (400, 422) and target.ignore_eos and b"ignore_eos" in raw:
                target.ignore_eos = False
                continue
            if status != 200 or not isinstance(answer, dict):
                told = raw[:500].decode(errors="replace")
                raise BenchmarkFailed(f"{target.url} answers a request of one token with HTTP {status}: {told}")
            return answer


def find_model(target: Target) -> str:
    """The first model that the server lists. Raises BenchmarkFailed."""
    try:
        status, raw = target.call("GET", f"{target.path}/models")
        if status != 200:
            raise ValueError(f"HTTP {status}: {raw[:200]!r}")
        return str(json.loads(raw)["data"][0]["id"])
    except (OSError, ValueError, LookupError, TypeError, http.client.HTTPException) as error:
        raise BenchmarkFailed(f"{target.url}/models names no model ({error}); give --model.") from None


def calibrate(target: Target, *, system: bool = False) -> Vocabulary:
    """Find words of one token each: some ten requests. Raises BenchmarkFailed when the server has too few."""
    counter = Counter(target)
    base = counter.tokens(FIRST)
    system_base = counter.tokens(FIRST, FIRST) if system else base
    words: list[str] = []
    pending = candidates()
    random.Random("calibration").shuffle(pending)
    while pending and len(words) < WANTED:
        group, pending = pending[:AT_ONCE], pending[AT_ONCE:]
        words += _single(counter, base, group)
    if len(words) < LEAST:
        raise BenchmarkFailed(
            f"{target.url} counts one token for only {len(words)} of {len(candidates())} common words; prompts of a "
            f"given length need {LEAST}. Use --workload file."
        )
    return Vocabulary(tuple(words), base, system_base)


def _single(counter: Counter, base: int, group: Sequence[str]) -> list[str]:
    """The words of the group that are one token each, found by halving."""
    if counter.tokens(" ".join([FIRST, *group])) == base + len(group):
        return list(group)
    if len(group) == 1:
        return []
    half = len(group) // 2
    return _single(counter, base, group[:half]) + _single(counter, base, group[half:])
