"""Targets: files of models."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
from common import One, document, dumped, folder_of

from befit import models, tokenizer
from befit.errors import BefitError
from befit.weights.checkpoint import Checkpoint
from support.files import TEMPLATE, tiny_file
from support.hf import hf_arrays, hf_config, tokenizer_json, write_safetensors
from support.tiny import FAMILY_NAMES, tiny_model


def load_all(file: Checkpoint) -> None:
    """What a start does with an open model, up to the weights."""
    for key in file.metadata:
        with contextlib.suppress(BefitError):
            file.metadata[key]
    for name in file.shapes:
        with contextlib.suppress(BefitError):
            file.tensors[name].dequantize()
    with contextlib.suppress(BefitError):
        tokenizer.load(file.metadata).encode("ab <0x41> é")
    with contextlib.suppress(BefitError):
        program = models.describe(file.metadata, file.shapes, lambda key: file.tensors[key].dequantize())
        file.check(program.weight_names())


def make_gguf() -> One:
    from befit.weights.gguf import GGUFFile

    path = folder_of("gguf") / "m.gguf"

    def one(data: bytes) -> None:
        path.write_bytes(data)
        with contextlib.suppress(BefitError), GGUFFile.open(path) as file:
            load_all(file)

    return one


def gguf_seeds() -> Iterator[bytes]:
    from weights.conftest import Gguf

    yield from (Gguf.small(2), Gguf.small(3))
    path = folder_of("seed") / "m.gguf"
    for family in FAMILY_NAMES:
        small = {"storage": "q4_0", "hidden": 32, "n_heads": 1, "n_kv_heads": 1, "n_layers": 1, "ffn": 32}
        yield tiny_file(path, family, **small).read_bytes()


def make_safetensors() -> One:
    from befit.weights.safetensors import read_safetensors
    from befit.weights.safetensors_header import parse_header

    path = folder_of("safetensors") / "m.safetensors"

    def one(data: bytes) -> None:
        with contextlib.suppress(BefitError):
            parse_header(data, "x")
        path.write_bytes(data)
        with contextlib.suppress(BefitError):
            file = read_safetensors(path)
            for name in file.entries:
                assert file.raw(name).nbytes == file.entries[name].end - file.entries[name].begin
                file.release(name)

    return one


def safetensors_seeds() -> Iterator[bytes]:
    arrays = {"a": ("F32", np.ones((2, 3))), "b": ("I8", np.ones(5)), "c": ("BF16", np.ones((0, 4)))}
    content = write_safetensors(folder_of("seed") / "m.safetensors", arrays).read_bytes()
    yield content
    yield content[8:-15]


def make_folder() -> One:
    from befit.weights.hf_folder import HFFolder

    folder = folder_of("folder")
    write_safetensors(folder / "model.safetensors", hf_arrays(tiny_model("llama", vocab=288, hidden=32, n_layers=1)))

    def take(value: Any) -> None:
        for name in ("config", "generation_config", "tokenizer_config", "tokenizer"):
            path = folder / f"{name}.json"
            path.unlink(missing_ok=True)
            if isinstance(value, dict) and name in value:
                path.write_text(json.dumps(value[name]))
        with contextlib.suppress(BefitError), HFFolder.open(folder) as file:
            load_all(file)

    return document(take)


def folder_seeds() -> Iterator[bytes]:
    texts = {
        "tokenizer": tokenizer_json(),
        "tokenizer_config": {
            "bos_token": "<|im_start|>",
            "eos_token": {"content": "<|im_end|>"},
            "chat_template": TEMPLATE,
        },
        "generation_config": {"eos_token_id": [262], "temperature": 0.5, "top_k": 3},
    }
    quantised = [
        {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False, "sym": True},
        {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm"},
        {"quant_method": "fp8", "weight_block_size": [128, 128]},
        {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
        {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {}},
    ]
    for family in FAMILY_NAMES:
        yield from dumped({"config": hf_config(tiny_model(family, vocab=288, hidden=32, n_layers=1)), **texts})
    config = hf_config(tiny_model("llama", vocab=288, hidden=32, n_layers=1))
    yield from dumped(*({"config": {**config, "quantization_config": each}, **texts} for each in quantised))
    yield from dumped({"config": {**config, "rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, **texts})


CONFIG_WORDS = (
    "rope_scaling", "rope_type", "yarn", "llama3", "linear", "dynamic", "factor", "quantization_config", "gptq",
    "awq", "fp8", "bits", "group_size", "text_config", "auto_map", "architectures", "model_type", "head_dim",
    "sliding_window", "layer_types", "content", "added_tokens", "normalizer", "pre_tokenizer", "Sequence", "Split",
    "Regex", "(a+)+$", "merges", "vocab", "BPE", "Unigram", "byte_fallback", "Metaspace", "chat_template",
    "eos_token_id", "<0x41>", "\u2581",
)  # fmt: skip
