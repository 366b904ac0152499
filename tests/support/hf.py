"""Tiny models as Hugging Face folders: the same weights as `tiny_model`, in transformers' names and order of rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from befit.weights.tensor import DenseTensor
from support.files import TEMPLATE, vocabulary
from support.tiny import TinyModel

Arrays = dict[str, tuple[str, np.ndarray]]
"""Tensors of a safetensors file: type and values by name; bf16 as uint16."""

TYPES = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16, "I32": np.int32, "I8": np.int8, "U8": np.uint8}
TYPES |= {"F8_E4M3": np.uint8, "I64": np.int64}

LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
STARCODER2 = LAYER | {"ffn_up": "mlp.c_fc", "ffn_down": "mlp.c_proj"}
GEMMA3 = LAYER | {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


def hf_name(name: str, family: str) -> str:
    """transformers' name of a canonical tensor."""
    stem, kind = name.rsplit(".", 1)
    if not stem.startswith("blk."):
        return f"{TOP[stem]}.{kind}"
    _, layer, part = stem.split(".")
    table = {"starcoder2": STARCODER2, "gemma3": GEMMA3}.get(family, LAYER)
    return f"model.layers.{layer}.{table[part]}.{kind}"


def hf_config(model: TinyModel, **changes: Any) -> dict[str, Any]:
    """The config.json that transformers would write for the model."""
    family = model.metadata["general.architecture"]

    def get(key: str, default: Any = None) -> Any:
        return model.metadata.get(f"{family}.{key}", default)

    config = {
        "model_type": {"gemma3": "gemma3_text"}.get(family, family),
        "hidden_size": get("embedding_length"),
        "num_hidden_layers": get("block_count"),
        "num_attention_heads": get("attention.head_count"),
        "num_key_value_heads": get("attention.head_count_kv"),
        "head_dim": get("attention.key_length"),
        "intermediate_size": get("feed_forward_length"),
        "vocab_size": model.program.vocab_size,
        "max_position_embeddings": get("context_length"),
        "rope_theta": get("rope.freq_base"),
        "tie_word_embeddings": "output.weight" not in model.tensors,
        "rms_norm_eps": 1e-5,
        "eos_token_id": 262,
    }
    if family == "starcoder2":
        config["sliding_window"] = get("attention.sliding_window")
    if family == "gemma3":
        config |= {"query_pre_attn_scalar": get("attention.key_length"), "sliding_window": 16}
    return config | changes


def hf_arrays(model: TinyModel, dtype: str = "BF16") -> Arrays:
    """The model's tensors as a checkpoint has them, matrices and vectors as `dtype`."""
    family = model.metadata["general.architecture"]
    attention = next(model.program.attentions())
    heads = {"attn_q": attention.n_heads, "attn_k": attention.n_kv_heads}
    arrays: Arrays = {}
    for name in model.tensors:
        value = model.weight(name)
        part = name.split(".")[-2]
        if family == "llama" and part in heads:  # GGUF's pairs (2i, 2i+1) back to (i, i + dim/2), head by head
            rest = value.shape[1:]
            value = value.reshape(heads[part], -1, 2, *rest).swapaxes(1, 2).reshape(value.shape)
        if family == "gemma3" and part.endswith("norm"):
            value = value - 1
        arrays[hf_name(name, family)] = (dtype, stored(value, dtype))
    return arrays


def stored(value: np.ndarray, dtype: str) -> np.ndarray:
    """Floats as a type of safetensors; bf16 is rounded to nearest, ties to even."""
    if dtype != "BF16":
        return value.astype(TYPES[dtype])
    bits = value.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def write_safetensors(path: Path, arrays: Arrays) -> Path:
    """A safetensors file of these tensors, in this order."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at, pieces = 0, []
    for name, (dtype, value) in arrays.items():
        raw = np.ascontiguousarray(value, TYPES[dtype]).tobytes()
        header[name] = {"dtype": dtype, "shape": list(value.shape), "data_offsets": [at, at + len(raw)]}
        pieces.append(raw)
        at += len(raw)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(pieces))
    return path


def write_folder(
    folder: Path,
    config: Mapping[str, Any],
    arrays: Arrays,
    *,
    parts: int = 1,
    generation: Mapping[str, Any] | None = None,
    change: Callable[[dict[str, Any]], None] = lambda tokenizer: None,
) -> Path:
    """A whole folder: config, weights (in parts with an index), tokeniser and chat template."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer = tokenizer_json()
    change(tokenizer)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    settings = {"bos_token": "<|im_start|>", "eos_token": {"content": "<|im_end|>"}, "add_bos_token": False}
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": TEMPLATE}))
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    if parts == 1:
        write_safetensors(folder / "model.safetensors", arrays)
        return folder
    items, where = list(arrays.items()), {}
    for part in range(parts):
        file = f"model-{part + 1:05}-of-{parts:05}.safetensors"
        mine = dict(items[part::parts])
        write_safetensors(folder / file, mine)
        where |= dict.fromkeys(mine, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return folder


def tokenizer_json() -> dict[str, Any]:
    """The vocabulary of `support.files` as a tokenizer.json; it splits words as GPT-2 does."""
    gguf = vocabulary()
    pairs = list(zip(gguf["tokenizer.ggml.tokens"], gguf["tokenizer.ggml.token_type"].tolist(), strict=True))
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {
        "version": "1.0",
        "added_tokens": [
            {"id": i, "content": text, "special": True, **flags} for i, (text, kind) in enumerate(pairs) if kind == 3
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "byte_fallback": False,
            "vocab": {text: i for i, (text, kind) in enumerate(pairs) if kind == 1},
            "merges": gguf["tokenizer.ggml.merges"],
        },
    }


def dense(name: str, value: np.ndarray) -> DenseTensor:
    """A float32 tensor."""
    return DenseTensor(name, value.shape, "f32", value.astype(np.float32))
