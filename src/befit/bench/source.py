"""Code files made up for the rewriting workload: sixty lines of plain Python, different for every random generator."""

from __future__ import annotations

import random
from dataclasses import dataclass

LINES = 60
_NOUNS = [
    *("order", "user", "invoice", "parcel", "sensor", "ticket", "account", "message"),
    *("photo", "route", "recipe", "player", "device", "report", "event"),
]
_FIELDS = ["price", "weight", "score", "length", "amount", "delay", "level", "count", "rate", "size"]
_LIMITS = ["MAXIMUM", "MINIMUM", "TIMEOUT", "RETRIES", "WORKERS", "BATCH", "PAGE", "DEPTH", "WIDTH", "COUNT", "BUFFER"]
_TOTALS = ["total", "result", "value", "output", "answer"]

_FUNCTION = '''\
def {name}({noun}s, limit={limit}):
    """Return the {how} {field} of the {noun}s that are below the limit."""
    {total} = {start}
    for {noun} in {noun}s:
        if {noun}["{field}"] > limit:
            continue
        {total} {step}
    return {total}
'''


@dataclass(frozen=True, slots=True)
class Rewriting:
    """A prompt with a file in it, the file, and the file as a perfect answer has it."""

    prompt: str
    before: str
    after: str


def rewriting(rng: random.Random, *, chat: bool) -> Rewriting:
    """A file of `LINES` lines and the wish to rename its class, as a completion prompt or a chat message.

    A completion prompt goes as far as the answer's first function, so that any model for code goes on with the file;
    `after` is the rest then.
    """
    noun = rng.choice(_NOUNS)
    old = f"{noun.capitalize()}Table{rng.randrange(10, 100)}"
    new = f"{noun.capitalize()}List"
    before = code_file(rng, noun, old)
    after = before.replace(old, new)
    if chat:
        wish = f"Write this file again, from its first to its last line, with the class {old} renamed to {new}."
        return Rewriting(
            f"{wish} Answer with the whole file and nothing else.\n\n```python\n{before}```\n", before, after
        )
    begun_to = after.index("\n", after.index("def ")) + 1
    begun, rest = after[:begun_to], after[begun_to:]
    title = f"# {noun}s.py"
    return Rewriting(f"{title}\n{before}\n{title}, with {old} renamed to {new}\n{begun}", before, rest)


def code_file(rng: random.Random, noun: str, class_name: str) -> str:
    """Limits, functions over dictionaries, and a class that uses them: `LINES` lines."""
    lines: list[str] = []
    names: list[str] = []
    while len(lines) + 10 + len(names) <= LINES - 21:
        field, total = rng.choice(_FIELDS), rng.choice(_TOTALS)
        how, start, step = rng.choice(
            [
                ("summed", "0", f'+= {noun}["{field}"]'),
                ("largest", "0", f'= max({total}, {noun}["{field}"])'),
                ("scaled", "1", f'+= {rng.randrange(2, 9)} * {noun}["{field}"]'),
            ]
        )
        name = f"{how}_{field}_{rng.randrange(10, 100)}"
        function = _FUNCTION.format(
            name=name,
            noun=noun,
            field=field,
            total=total,
            how=how,
            start=start,
            step=step,
            limit=rng.randrange(10, 1000),
        )
        lines += [*function.splitlines(), "", ""]
        names.append(name)
    lines += [f"class {class_name}:", f'    """Some {noun}s and their numbers."""', ""]
    lines += [f"    def __init__(self, {noun}s):", f"        self.{noun}s = {noun}s", ""]
    lines += ["    def numbers(self):", "        return {"]
    lines += [f'            "{name}": {name}(self.{noun}s),' for name in names]
    lines += ["        }", "", "    def dump(self, path):", '        with open(path, "w") as file:']
    lines += ["            json.dump(self.numbers(), file)"]
    head = [f'"""Numbers about {noun}s."""', "", "import json", ""]
    limits = [f"{noun.upper()}_{kind} = {rng.randrange(10, 1000)}" for kind in _LIMITS]
    filled = [*head, *limits[: LINES - len(head) - len(lines) - 2], "", "", *lines]
    return "\n".join(filled) + "\n"
