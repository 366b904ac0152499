"""Small tokenisers with the control tokens that a test wants."""

from __future__ import annotations

from typing import Any

from befit import tokenizer
from befit.tokenizer import Tokenizer

QWEN = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>")


def byte_level(*control: str, **keys: Any) -> Tokenizer:
    """Ids 0 to 255 are the bytes, then come the control tokens in order; the first of them is the end of sequence."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    spare = iter(range(256, 512))
    tokens = [chr(byte) if byte in printable else chr(next(spare)) for byte in range(256)]
    return tokenizer.load(
        {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": "gpt-2",
            "tokenizer.ggml.tokens": [*tokens, *control],
            "tokenizer.ggml.token_type": [1] * 256 + [3] * len(control),
            "tokenizer.ggml.merges": [],
            "tokenizer.ggml.eos_token_id": 256,
            **{f"tokenizer.ggml.{key}": value for key, value in keys.items()},
        }
    )


def sentencepiece(*control: str, **keys: Any) -> Tokenizer:
    """<unk> <s> </s>, bytes, the pieces ▁, a to z and ▁x, then control tokens. Puts <s> and a space first."""
    pieces = {"▁": -1.0, **dict.fromkeys("abcdefghijklmnopqrstuvwxyz", -2.0), "▁x": -0.5}
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces, *control]
    return tokenizer.load(
        {
            "tokenizer.ggml.model": "llama",
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.token_type": [2, 3, 3] + [6] * 256 + [1] * len(pieces) + [3] * len(control),
            "tokenizer.ggml.scores": [0.0] * 259 + list(pieces.values()) + [0.0] * len(control),
            **{f"tokenizer.ggml.{key}": value for key, value in keys.items()},
        }
    )
