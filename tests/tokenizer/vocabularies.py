"""Small vocabularies, written as the metadata of a GGUF file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from conversion import BYTE, CONTROL, NORMAL, UNKNOWN, USER_DEFINED, byte_characters


def byte_level(
    merges: Sequence[str] = (),
    *,
    control: Sequence[str] = ("<|endoftext|>",),
    user_defined: Sequence[str] = (),
    pre: str | None = "gpt-2",
    **keys: Any,
) -> dict[str, Any]:
    """Ids: 0–255 the bytes in order, then what the merges make, then control, then user-defined tokens."""
    made = ["".join(merge.split(" ")) for merge in merges]
    tokens = byte_characters() + made + list(control) + list(user_defined)
    types = [NORMAL] * (256 + len(made)) + [CONTROL] * len(control) + [USER_DEFINED] * len(user_defined)
    metadata: dict[str, Any] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": np.array(types, np.int32),
        "tokenizer.ggml.merges": list(merges),
        **{f"tokenizer.ggml.{key}": value for key, value in keys.items()},
    }
    if pre is not None:
        metadata["tokenizer.ggml.pre"] = pre
    return metadata


def sentencepiece(
    pieces: Mapping[str, float], *, control: Sequence[str] = (), user_defined: Sequence[str] = (), **keys: Any
) -> dict[str, Any]:
    """Ids: <unk> <s> </s>, 256 bytes from 3, the pieces with their scores from 259, then the others."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces, *control, *user_defined]
    types = (
        [UNKNOWN, CONTROL, CONTROL] + [BYTE] * 256 + [NORMAL] * len(pieces)
        + [CONTROL] * len(control) + [USER_DEFINED] * len(user_defined)
    )  # fmt: skip
    scores = [0.0] * 259 + list(pieces.values()) + [-1000.0] * (len(control) + len(user_defined))
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": np.array(types, np.int32),
        "tokenizer.ggml.scores": np.array(scores, np.float32),
        **{f"tokenizer.ggml.{key}": value for key, value in keys.items()},
    }
