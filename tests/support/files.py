"""Tiny models as GGUF files, with a tokeniser, so that whatever loads a file can load them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from befit.weights.tensor import QuantTensor
from support.tiny import TinyModel, tiny_model

TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
MERGES = ["h e", "l l", "he ll", "hell o"]
CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
VOCAB = 288


def word_merges(text: str) -> list[str]:
    """Merges that make a token, or a few, of each word of an ASCII text."""
    merges: dict[str, str] = {}
    for word in re.findall(r" ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+", text):
        spelled = word.replace(" ", "\u0120")
        for end in range(2, len(spelled) + 1):
            merges.setdefault(spelled[:end], f"{spelled[: end - 1]} {spelled[end - 1]}")
    return list(merges.values())


def vocabulary(control: Sequence[str] = CONTROL, merges: Sequence[str] = MERGES, size: int = VOCAB) -> dict[str, Any]:
    """Byte-level metadata: 256 bytes, what the merges make, control tokens, and unused ones up to `size`."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    spelled = {byte: chr(byte) for byte in printable} | {byte: chr(256 + at) for at, byte in enumerate(others)}
    tokens = [spelled[byte] for byte in range(256)] + [merge.replace(" ", "") for merge in merges] + list(control)
    types = [1] * (256 + len(merges)) + [3] * len(control)
    while len(tokens) < size:
        tokens.append(f"[unused{len(tokens)}]")
        types.append(5)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": np.array(types, np.int32),
        "tokenizer.ggml.merges": list(merges),
        "tokenizer.ggml.eos_token_id": tokens.index("<|endoftext|>"),
        "tokenizer.chat_template": TEMPLATE,
    }


def tiny_file(
    path: Path,
    family: str = "llama",
    *,
    control: Sequence[str] = CONTROL,
    merges: Sequence[str] = MERGES,
    size: int = VOCAB,
    part_tensors: int = 0,
    **options: Any,
) -> Path:
    """Write a tiny model of the family with a vocabulary of so many tokens; the options are those of `tiny_model`."""
    words = vocabulary(control, merges, size)
    return write_gguf(path, tiny_model(family, vocab=size, **options), words, part_tensors=part_tensors)


def write_gguf(path: Path, model: TinyModel, words: Mapping[str, Any], *, part_tensors: int = 0) -> Path:
    """Write the model's metadata, those of its vocabulary, and its tensors; in parts of so many tensors, if wanted."""
    metadata = {**model.metadata, **words}
    writer = gguf.GGUFWriter(path, metadata.pop("general.architecture"), split_max_tensors=part_tensors)
    for key, value in metadata.items():
        match value:
            case bool():
                writer.add_bool(key, value)
            case int():
                writer.add_uint32(key, value)
            case float():
                writer.add_float32(key, value)
            case str():
                writer.add_string(key, value)
            case _:
                writer.add_array(key, value.tolist() if isinstance(value, np.ndarray) else value)
    for name, tensor in model.tensors.items():
        if isinstance(tensor, QuantTensor):
            kind = gguf.GGMLQuantizationType[tensor.format.name.upper()]
            writer.add_tensor(name, np.ascontiguousarray(tensor.raw), raw_dtype=kind)
        elif tensor.dtype == "bf16":
            raw = np.ascontiguousarray(tensor.data).view(np.uint8)
            writer.add_tensor(name, raw, raw_dtype=gguf.GGMLQuantizationType.BF16)
        else:
            writer.add_tensor(name, np.ascontiguousarray(tensor.data))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
