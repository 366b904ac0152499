"""The fuzzer's targets take their own seeds, and documents made of them, without a finding."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from mutate import json_mutator
from targets import TARGETS


@pytest.mark.parametrize("name", [name for name in TARGETS if name != "http"])  # that one's server never ends
def test_seeds_are_no_findings(name: str) -> None:
    target = TARGETS[name]
    one = target.make()
    for seed in target.seeds():
        assert len(seed) <= target.longest
        one(seed)
        if target.words:
            one(json_mutator(target.words)(seed, target.longest, 0))


def test_what_was_a_document_is_one_again_and_another() -> None:
    mutate = json_mutator(("a", "b"))
    made = {mutate(b'{"x": [1, "y", {"z": null}]}', 500, seed) for seed in range(100)}
    assert len(made) > 50
    assert mutate(b"no JSON", 500, 1)
