"""Machines made of numbers, and model folders as Hugging Face's models come in."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from befit.plan.machine import Machine

LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "vocab_size": 80,
    "max_position_embeddings": 256,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
}


@pytest.fixture
def machine() -> Callable[..., Machine]:
    """machine(available, **changes): a card of 8 GB with 272 GB/s unless said otherwise."""

    def make(available: int = 8 << 30, **changes: Any) -> Machine:
        values: dict[str, Any] = {
            "name": "card",
            "kind": "gpu",
            "available": available,
            "bandwidth": 272e9,
            "rate": 15e12,
            "overhead": 500 * 10**6,
            "source": "test",
        }
        return Machine(**{**values, **changes})

    return make


@pytest.fixture
def config() -> dict[str, Any]:
    """The config.json of a tiny Llama."""
    return dict(LLAMA)


def write_safetensors(path: Path, tensors: dict[str, tuple[str, tuple[int, ...]]]) -> None:
    """A file with these tensors, of (dtype, shape), all zeros."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, (dtype, shape) in tensors.items():
        size = int(np.prod(shape)) * {"BF16": 2, "F16": 2, "F32": 4, "I32": 4}[dtype]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(at))


def hf_names(config: dict[str, Any]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The tensors of a Llama of these sizes, named as transformers does."""
    hidden, ffn, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    kv = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    tensors = {"model.embed_tokens.weight": ("BF16", (vocab, hidden)), "model.norm.weight": ("F32", (hidden,))}
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        for name, rows in (("q_proj", hidden), ("k_proj", kv), ("v_proj", kv), ("o_proj", hidden)):
            tensors[f"{at}.self_attn.{name}.weight"] = ("BF16", (rows, hidden))
        for name, shape in (("gate_proj", (ffn, hidden)), ("up_proj", (ffn, hidden)), ("down_proj", (hidden, ffn))):
            tensors[f"{at}.mlp.{name}.weight"] = ("BF16", shape)
        tensors[f"{at}.input_layernorm.weight"] = ("F32", (hidden,))
        tensors[f"{at}.post_attention_layernorm.weight"] = ("F32", (hidden,))
    return tensors


@pytest.fixture
def hf_folder(tmp_path: Path) -> Callable[..., Path]:
    """hf_folder(name, config, parts=1): a folder with config.json and safetensors, in parts with an index."""

    def make(name: str, config: dict[str, Any], parts: int = 1) -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(config))
        names = hf_names(config)
        items = list(names.items())
        if parts == 1:
            write_safetensors(folder / "model.safetensors", names)
            return folder
        weight_map = {}
        for part in range(parts):
            file = f"model-{part + 1:05}-of-{parts:05}.safetensors"
            mine = dict(items[part::parts])
            write_safetensors(folder / file, mine)
            weight_map |= dict.fromkeys(mine, file)
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
        write_safetensors(folder / "consolidated.safetensors", names)  # the weights once more: not in the index
        return folder

    return make
