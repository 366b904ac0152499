"""A tokenizer.json is run as it says: the same ids and texts as the library that wrote it, for each family's steps."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from befit import tokenizer
from befit.errors import CorruptFile, UnsupportedModel
from befit.tokenizer.pipeline import PIPELINE
from befit.weights.hf_tokenizer import tokenizer_metadata

TEXTS = [
    "def fibonacci(n):\n    if n < 2:\n        return n\n    return fibonacci(n - 1) + fibonacci(n - 2)\n",
    "The quick brown fox jumps over the lazy dog, 1234 times; isn't that 漢字 née?\t\n\n",
    "for i in range(10):\n\tprint(i, 'hello world', x == y)\n",
] * 20
CONTROL = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]
SPLIT = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def steps(kind: str) -> Tokenizer:
    """An empty tokeniser with the steps of a family."""
    made = Tokenizer(models.BPE(byte_fallback=kind.startswith("spm"), unk_token="<unk>" if kind[0] == "s" else None))
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=kind == "gpt2")
    spaces = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    match kind:
        case "spm":  # Llama 2, CodeLlama
            made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
            made.decoder = decoders.Sequence([*spaces, decoders.Strip(" ", 1, 0)])
        case "spm without a prefix":  # Gemma
            made.normalizer = normalizers.Replace(" ", "▁")
            made.decoder = decoders.Sequence(spaces)
        case "spm first":  # Mistral
            made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
            made.decoder = decoders.Sequence([*spaces, decoders.Strip(" ", 1, 0)])
        case "gpt2":
            made.pre_tokenizer = byte_level
        case "digits":  # StarCoder2, SmolLM
            digits = pre_tokenizers.Digits(individual_digits=True)
            made.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
        case "split":  # Llama 3, Qwen
            made.normalizer = normalizers.NFC()
            split = pre_tokenizers.Split(Regex(SPLIT), "isolated")
            made.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    if made.decoder is None:
        made.decoder = decoders.ByteLevel()
    return made


KINDS = ("spm", "spm without a prefix", "spm first", "gpt2", "digits", "split")


@cache
def trained(kind: str) -> Tokenizer:
    """The family's steps with a vocabulary of their own."""
    made = steps(kind)
    alphabet = [] if kind.startswith("spm") else pre_tokenizers.ByteLevel.alphabet()
    special = ["<unk>", *CONTROL, *(f"<0x{byte:02X}>" for byte in range(256))] if kind[:3] == "spm" else CONTROL
    made.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=600, special_tokens=special, initial_alphabet=alphabet)
    )
    data = json.loads(made.to_str())
    data["added_tokens"] = [each for each in data["added_tokens"] if not each["content"].startswith("<0x")]
    made = Tokenizer.from_str(json.dumps(data))
    made.add_tokens([AddedToken("<tool_call>", normalized=False), AddedToken("<extra>", normalized=True)])
    return made


def metadata(kind: str, **more: Any) -> dict[str, Any]:
    settings = {"bos_token": "<s>", "eos_token": "</s>", **more}
    found = json.loads(trained(kind).to_str())
    return tokenizer_metadata(found, settings, "tokenizer.json", rows=700, end_ids=[], bos_id=None)


@cache
def loaded(kind: str) -> tokenizer.Tokenizer:
    return tokenizer.load(metadata(kind))


pieces = st.sampled_from(
    [
        *CONTROL,
        "<tool_call>",
        " ",
        "  ",
        "    ",
        "\n",
        "def",
        "hello",
        "12",
        "34567",
        "漢",
        "é",
        "e\u0301",
        "🙂",
        "▁",
        "'t",
    ]
)
texts = st.lists(st.one_of(pieces, st.text(max_size=3)), max_size=12).map("".join)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=150)
@given(text=texts)
def test_ids_and_texts_are_the_librarys(kind: str, text: str) -> None:
    library, made = trained(kind), loaded(kind)
    ids = library.encode(text, add_special_tokens=False).ids
    assert made.encode(text, add_special=False) == ids
    expected = library.decode(ids, skip_special_tokens=False)
    assert made.decode([made.bos_id, *ids], skip_special=False).removeprefix("<s>").strip() == expected.strip()


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_as_plain_text(kind: str) -> None:
    made = loaded(kind)
    ids = made.encode("a <|im_end|> b<tool_call>", add_special=False, parse_special=False)
    assert not any(made.is_special(token) for token in ids)
    assert made.token_id("<tool_call>") in ids
    assert made.token_id("<|im_end|>") in made.encode("a <|im_end|> b")


def test_beginning_and_end() -> None:
    made = tokenizer.load(metadata("split", add_bos_token=True, add_eos_token=True))
    ids = made.encode("hello")
    assert (ids[0], ids[-1]) == (made.token_id("<s>"), made.token_id("</s>"))
    library = Tokenizer.from_str(trained("split").to_str())
    library.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    found = tokenizer_metadata(
        json.loads(library.to_str()), {"bos_token": "<s>"}, "x", rows=0, end_ids=[3], bos_id=None
    )
    made = tokenizer.load(found)
    assert made.encode("hello") == library.encode("hello").ids
    assert 3 in made.eos_ids


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"normalizer": {"type": "No"}, "pre_tokenizer": null, "model": {}, "added_tokens": []}']
)
def test_steps_that_cannot_be_run(text: str) -> None:
    with pytest.raises(CorruptFile, match="way of splitting"):
        tokenizer.load({**metadata("gpt2"), PIPELINE: text})


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"vocab": []}, CorruptFile),
        ({"vocab": {"a": -1}}, CorruptFile),
        ({"vocab": {"a": 1 << 40}}, CorruptFile),
        ({"merges": ["a"]}, CorruptFile),
        ({"merges": [["a b", "c"]]}, UnsupportedModel),
        ({"end_of_word_suffix": "</w>"}, UnsupportedModel),
        ({"dropout": 0.1}, UnsupportedModel),
    ],
)
def test_a_model_that_cannot_be_run(change: dict[str, Any], error: type[Exception]) -> None:
    found = json.loads(trained("gpt2").to_str())
    found["model"] |= change
    with pytest.raises(error):
        tokenizer.load(tokenizer_metadata(found, {}, "tokenizer.json", rows=0, end_ids=[], bos_id=None))
