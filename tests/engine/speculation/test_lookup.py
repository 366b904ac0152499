"""Guessing the next tokens from where the text was the same before."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from befit.engine.speculation.lookup import PromptLookup


def replay(prompt: list[int], output: list[int], most: int = 16) -> tuple[int, int, int]:
    """Generate `output` with drafts: how many steps it takes, and how many tokens are drafted and accepted."""
    tokens = list(prompt)
    lookup = PromptLookup(tokens, len(prompt) + len(output))
    steps = drafted = accepted = at = 0
    while at < len(output):
        lookup.catch_up()
        drafts, chances = lookup.propose(most)
        assert len(drafts) == len(chances) <= most
        assert all(1 > a >= b > 0 for a, b in zip([0.999999, *chances], chances, strict=False))
        drafts = [draft for draft, chance in zip(drafts, chances, strict=True) if chance > 0.25]
        right = 0
        while right < len(drafts) and at + right + 1 < len(output) and drafts[right] == output[at + right]:
            right += 1
        steps, drafted, accepted = steps + 1, drafted + len(drafts), accepted + right
        tokens += output[at : at + right + 1]
        at += right + 1
    return steps, drafted, accepted


def text(length: int, vocabulary: int = 500, seed: int = 0) -> list[int]:
    return random.Random(seed).choices(range(vocabulary), k=length)


def test_a_copied_text_is_nearly_all_drafts() -> None:
    file = text(600)
    steps, drafted, accepted = replay([*file, 1, 2, 3], file)
    assert accepted > 0.9 * len(file)
    assert accepted > 0.9 * drafted
    assert steps < len(file) / 8


def test_edits_in_a_copied_text_cost_a_step_or_two_each() -> None:
    file = text(600)
    edited: list[int] = []
    for i in range(0, 600, 60):
        part = file[i : i + 60]
        kind = i // 60 % 4
        if kind == 1:
            part[30:31] = [900]  # a token replaced by another
        elif kind == 2:
            part[30:30] = [900, 901, 902]  # some inserted
        elif kind == 3:
            del part[30:33]  # some left out
        edited += part
    steps, _, accepted = replay([*file, 1, 2, 3], edited)
    assert accepted > 0.85 * len(edited)
    assert steps < len(edited) / 6


def test_a_name_of_one_token_replaced_by_one_of_two_keeps_the_place() -> None:
    file = [token for i in range(40) for token in (700, *text(12, seed=i))]
    renamed = [token for i in range(40) for token in (701, 702, *text(12, seed=i))]
    _, _, accepted = replay([*file, 1, 2, 3], renamed)
    assert accepted > 0.7 * len(renamed)


def test_text_without_repetition_is_not_drafted() -> None:
    assert replay(text(300, 5000), text(300, 5000, seed=1)) == (300, 0, 0)


def test_what_repeats_but_goes_on_otherwise_turns_drafting_off() -> None:
    rng = random.Random(3)
    grams = [[rng.randrange(50) for _ in range(3)] for _ in range(8)]
    output = [token for _ in range(200) for token in (*rng.choice(grams), rng.randrange(50, 5000))]
    _, drafted, _ = replay([], output)
    _, drafted_later, _ = replay(output, output[:400:-1])
    assert drafted < 0.25 * len(output)
    assert drafted_later < 0.25 * 400


def test_drafting_comes_back_when_the_text_repeats_again() -> None:
    file = text(400)
    noise = [token for i in range(100) for token in (*file[i : i + 3], 1000 + i)]
    _, _, accepted = replay(file, noise + file)
    assert accepted > 0.85 * len(file)


def test_a_text_that_repeats_itself_is_drafted_beyond_its_end() -> None:
    tokens = [1, 2, 3, 4] * 3
    lookup = PromptLookup(tokens, 100)
    drafts, _ = lookup.propose(11)
    assert drafts == ([1, 2, 3, 4] * 3)[:11]


def test_the_longest_earlier_match_is_taken() -> None:
    tokens = [1, 2, 3, 4, 5, 6, 70, 9, 3, 4, 5, 6, 80, 9, 9, 2, 3, 4, 5, 6]
    lookup = PromptLookup(tokens, 100)
    assert lookup.propose(1)[0] == [70]


@given(st.lists(st.integers(0, 3), max_size=60), st.lists(st.integers(0, 3), max_size=60))
def test_any_text_is_drafted_without_harm(prompt: list[int], output: list[int]) -> None:
    steps, drafted, accepted = replay(prompt, output)
    assert steps + accepted == len(output)
    assert accepted <= drafted
