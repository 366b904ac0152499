"""Where each family splits text into words. The expected words are those of the original tokenizer.json's splitters."""

from __future__ import annotations

import pytest

from befit.tokenizer.pretokenizers import SPLITTINGS

TEXT = "I'll we'VE x123 4567\n\n  return  café!!\r\n你好"
WORDS = {
    "gpt-2": [
        "I", "'ll", " we", "'", "VE", " x", "123", " 4567", "\n\n ", " return", " ", " café", "!!", "\r", "\n", "你好",
    ],
    "smollm": [
        "I", "'ll", " we", "'", "VE", " x", "1", "2", "3", " ", "4", "5", "6", "7",
        "\n\n ", " return", " ", " café", "!!", "\r", "\n", "你好",
    ],
    "qwen2": [
        "I", "'ll", " we", "'VE", " x", "1", "2", "3", " ", "4", "5", "6", "7",
        "\n\n", " ", " return", " ", " café", "!!\r\n", "你好",
    ],
    "llama-bpe": [
        "I", "'ll", " we", "'VE", " x", "123", " ", "456", "7", "\n\n", " ", " return", " ", " café", "!!\r\n", "你好",
    ],
    "deepseek-v3": [
        "I", "'ll", " we", "'VE", " x", "123", " ", "456", "7", "\n\n", " ", " return", " ", " café", "!!\r\n", "你好",
    ],
    "deepseek-coder": [
        "I", "'", "ll", " we", "'", "VE", " x", "1", "2", "3", " ", "4", "5", "6", "7",
        "\n", "\n", " ", " return", " ", " café", "!!", "\r", "\n", "你好",
    ],
    "deepseek-llm": [  # its class of punctuation, [:-~], takes ASCII letters in
        "I", "'", "ll", " we", "'", "VE", " x", "1", "2", "3", " ", "4", "5", "6", "7",
        "\n", "\n", " ", " return", " ", " caf", "é", "!!", "\r", "\n", "你好",
    ],
    "tekken": [
        "I", "'ll", " we", "'VE", " x", "1", "2", "3", " ", "4", "5", "6", "7",
        "\n\n", " ", " return", " ", " café", "!!\r\n", "你好",
    ],
    "seed-coder": [
        "I", "'ll", " we", "'VE", " x", "1", "2", "3", " ", "4", "5", "6", "7",
        "\n\n", " ", " return", " ", " café", "!!", "\r\n", "你好",
    ],
}  # fmt: skip


@pytest.mark.parametrize("pre", sorted(WORDS))
def test_words(pre: str) -> None:
    pieces = SPLITTINGS[pre].pre_tokenizer().pre_tokenize_str(TEXT)
    assert [TEXT[start:stop] for _, (start, stop) in pieces] == WORDS[pre]


@pytest.mark.parametrize(
    ("pre", "words"), [("tekken", ["camel", "Case", " HTTPServer"]), ("qwen2", ["camelCase", " HTTPServer"])]
)
def test_only_tekken_splits_at_capitals(pre: str, words: list[str]) -> None:
    text = "camelCase HTTPServer"
    pieces = SPLITTINGS[pre].pre_tokenizer().pre_tokenize_str(text)
    assert [text[start:stop] for _, (start, stop) in pieces] == words


def test_families_that_normalise_compose_characters() -> None:
    composing = {pre for pre, way in SPLITTINGS.items() if way.normalizer() is not None}
    assert composing == {"qwen2", "deepseek-r1-qwen", "command-r"}
    normalizer = SPLITTINGS["qwen2"].normalizer()
    assert normalizer is not None
    assert normalizer.normalize_str("e\u0301") == "é"
