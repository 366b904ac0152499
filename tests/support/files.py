"""Tiny models as GGUF files, with a tokeniser, so that whatever loads a file can load them."""

from __future__ import annotations

from collections.abc import Sequence
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


def vocabulary(control: Sequence[str] = CONTROL) -> dict[str, Any]:
    """Byte-level metadata: 256 bytes, what the merges make, control tokens, and unused ones up to VOCAB."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    spelled = {byte: chr(byte) for byte in printable} | {byte: chr(256 + at) for at, byte in enumerate(others)}
    tokens = [spelled[byte] for byte in range(256)] + [merge.replace(" ", "") for merge in MERGES] + list(control)
    types = [1] * (256 + len(MERGES)) + [3] * len(control)
    while len(tokens) < VOCAB:
        tokens.append(f"[unused{len(tokens)}]")
        types.append(5)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": np.array(types, np.int32),
        "tokenizer.ggml.merges": MERGES,
        "tokenizer.ggml.eos_token_id": tokens.index("<|endoftext|>"),
        "tokenizer.chat_template": TEMPLATE,
    }


def tiny_file(
    path: Path, family: str = "llama", *, control: Sequence[str] = CONTROL, part_tensors: int = 0, **options: Any
) -> Path:
    """Write a tiny model of the family with a vocabulary; the options are those of `tiny_model`."""
    return write_gguf(path, tiny_model(family, vocab=VOCAB, **options), control, part_tensors)


def write_gguf(path: Path, model: TinyModel, control: Sequence[str] = CONTROL, part_tensors: int = 0) -> Path:
    """Write the model's metadata, a vocabulary and its tensors; in parts of so many tensors, if wanted."""
    metadata = {**model.metadata, **vocabulary(control)}
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
