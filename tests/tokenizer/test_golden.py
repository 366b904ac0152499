"""Ids equal those that the original tokenisers gave; golden/*.json say where each was recorded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from samples import SAMPLES, mixed_text

from befit.tokenizer import IncrementalDecoder, Tokenizer

GOLDEN = Path(__file__).parent / "golden"


def cases(name: str) -> list[dict[str, Any]]:
    return json.loads((GOLDEN / name).read_text())["cases"]


def check(tokenizer: Tokenizer, recorded: list[dict[str, Any]]) -> None:
    for case in recorded:
        ids = tokenizer.encode(case["text"], add_special=False, parse_special=case["parse_special"])
        assert ids == case["ids"], case["text"]


@pytest.mark.model
def test_smollm2(smollm2: Tokenizer) -> None:
    check(smollm2, cases("smollm2.json"))


@pytest.mark.model
def test_smollm2_gives_text_back_whole_and_token_by_token(smollm2: Tokenizer) -> None:
    text = mixed_text().translate({ord(character): None for character in "\x01\x07\x08\x13\x14\x16\x1d"})
    for ids in (smollm2.encode(text), smollm2.encode(text, parse_special=False)):
        assert smollm2.decode(ids, skip_special=False).replace("\x00", "") == text.replace("\x00", "")
        decoder = IncrementalDecoder(smollm2, skip_special=False)
        assert "".join(map(decoder.push, ids)) + decoder.flush() == smollm2.decode(ids, skip_special=False)


@pytest.mark.model
def test_smollm2_ends_at_its_end_of_turn_and_its_end_of_text(smollm2: Tokenizer) -> None:
    assert {smollm2.token_text(token) for token in smollm2.eos_ids} == {"<|im_end|>", "<|endoftext|>"}
    assert not smollm2.adds_bos
    assert smollm2.token_id("<|im_start|>") == smollm2.bos_id == 1


@pytest.mark.qwen
def test_qwen(qwen: Tokenizer) -> None:
    check(qwen, cases("qwen2.json"))


@pytest.mark.qwen
def test_qwen_ends_at_its_end_of_turn_and_its_end_of_text(qwen: Tokenizer) -> None:
    assert {qwen.token_text(token) for token in qwen.eos_ids} == {"<|im_end|>", "<|endoftext|>"}
    assert qwen.encode("<tool_call>", parse_special=False) == [qwen.token_id("<tool_call>")]
    assert qwen.decode([151665, 151935, 10**6]) == ""  # rows that pad the embedding


@pytest.mark.model
def test_long_monotonous_texts_take_no_longer_than_others(smollm2: Tokenizer) -> None:
    for character in (" ", "a", "\n", "=", "1"):
        assert smollm2.decode(smollm2.encode(character * 100_000)) == character * 100_000
    assert len(SAMPLES) > 30
