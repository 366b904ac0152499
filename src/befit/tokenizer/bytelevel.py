"""Byte-level BPE (GPT-2): bytes written as printable characters, merges in the order that the file lists them.

The map from bytes to characters is that of the original, openai/gpt-2 src/encoder.py `bytes_to_unicode`: printable
Latin-1 stands for itself, every other byte for the next free character from U+0100.
"""

from __future__ import annotations

from tokenizers import models

from befit.errors import CorruptFile
from befit.tokenizer.vocabulary import Vocabulary


def _byte_of_character() -> dict[str, int]:
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = sorted(set(range(256)).difference(printable))
    return {chr(byte): byte for byte in printable} | {chr(256 + at): byte for at, byte in enumerate(others)}


_BYTES = _byte_of_character()


def spelled_bytes(spelling: str) -> bytes:
    """The bytes that an ordinary token stands for. One with a character outside the map stands for its own text."""
    try:
        return bytes([_BYTES[character] for character in spelling])
    except KeyError:
        return spelling.encode()


def bpe(vocabulary: Vocabulary, merges: list[str], *, ignore_merges: bool) -> models.BPE:
    """The merging model. `merges` are pairs of pieces with a space between, most frequent first.

    A byte for which the vocabulary has no piece is left out of the ids, as in the original tokenisers: SmolLM2 has no
    pieces for a few control characters and for bytes that no assigned character needs.
    """
    pairs = [(left, right) for left, _, right in (merge.partition(" ") for merge in merges)]
    wrong = next((at for at, (left, right) in enumerate(pairs) if not left or not right or " " in right), None)
    if wrong is not None:
        raise CorruptFile(f"tokenizer.ggml.merges[{wrong}] is {merges[wrong][:80]!r}, not two pieces and a space.")
    try:
        return models.BPE(vocab=vocabulary.by_spelling, merges=pairs, ignore_merges=ignore_merges)
    except Exception as error:  # the library raises its own, untyped
        raise CorruptFile(f"tokenizer.ggml.merges does not fit tokenizer.ggml.tokens: {error}") from error
