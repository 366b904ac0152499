"""Tiny models with random weights: what a GGUF file of each family would hold, without a file.

Used wherever a test needs a model and not its knowledge: one family at a time, any sizes, dense or quantised.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from befit.bench.random_weights import random_matrix
from befit.models import describe
from befit.models.program import Program
from befit.weights.tensor import DenseTensor, Tensor

FAMILY_NAMES = ("llama", "qwen2", "qwen3", "starcoder2", "gemma3")

Storage: TypeAlias = str | Callable[[str], str]
"""How matrices are stored: "f32", "f16", "bf16" or the name of a quantised format; or that, by tensor name."""


@dataclass(frozen=True)
class TinyModel:
    metadata: dict[str, Any]
    tensors: dict[str, Tensor]
    program: Program

    def weight(self, name: str) -> npt.NDArray[np.float32]:
        return self.tensors[name].dequantize()


def tiny_model(
    family: str,
    *,
    seed: int = 0,
    storage: Storage = "f32",
    n_layers: int = 2,
    hidden: int = 64,
    n_heads: int = 4,
    n_kv_heads: int = 2,
    head_dim: int = 32,
    ffn: int = 96,
    vocab: int = 80,
    context: int = 256,
    tied: bool = True,
    llama3_factors: npt.NDArray[np.float32] | None = None,
    **metadata: Any,
) -> TinyModel:
    """A random model. Other keywords add or replace metadata keys of the family, two underscores standing for a dot:
    `rope__freq_base=1e6` is `<family>.rope.freq_base`. q and k rows are in the file's order (see `Rope.interleaved`).
    """
    eps = "attention.layer_norm_epsilon" if family == "starcoder2" else "attention.layer_norm_rms_epsilon"
    keys: dict[str, Any] = {
        "block_count": n_layers,
        "embedding_length": hidden,
        "feed_forward_length": ffn,
        "context_length": context,
        "attention.head_count": n_heads,
        "attention.head_count_kv": n_kv_heads,
        "attention.key_length": head_dim,
        "attention.value_length": head_dim,
        "rope.freq_base": 10000.0,
        eps: 1e-5,
    }
    keys.update({key.replace("__", "."): value for key, value in metadata.items()})
    meta = {"general.architecture": family, **{f"{family}.{key}": value for key, value in keys.items()}}

    rng = np.random.default_rng(seed)
    tensors: dict[str, Tensor] = {}

    def matrix(name: str, rows: int, cols: int) -> None:
        kind = storage if isinstance(storage, str) else storage(name)
        tensors[name] = random_matrix(rng, name, rows, cols, kind)

    def vector(name: str, size: int, centre: float) -> None:
        data = (centre + 0.1 * rng.standard_normal(size)).astype(np.float32)
        tensors[name] = DenseTensor(name, (size,), "f32", data)

    def norm(name: str, size: int = hidden) -> None:
        vector(f"{name}.weight", size, 1.0)
        if family == "starcoder2":
            vector(f"{name}.bias", size, 0.0)

    def linear(name: str, rows: int, cols: int, *, bias: bool = family == "starcoder2") -> None:
        matrix(f"{name}.weight", rows, cols)
        if bias:
            vector(f"{name}.bias", rows, 0.0)

    matrix("token_embd.weight", vocab, hidden)
    for layer in range(n_layers):
        blk = f"blk.{layer}"
        qkv_bias = family in ("qwen2", "starcoder2")
        norm(f"{blk}.attn_norm")
        linear(f"{blk}.attn_q", n_heads * head_dim, hidden, bias=qkv_bias)
        linear(f"{blk}.attn_k", n_kv_heads * head_dim, hidden, bias=qkv_bias)
        linear(f"{blk}.attn_v", n_kv_heads * head_dim, hidden, bias=qkv_bias)
        if family in ("qwen3", "gemma3"):
            norm(f"{blk}.attn_q_norm", head_dim)
            norm(f"{blk}.attn_k_norm", head_dim)
        linear(f"{blk}.attn_output", hidden, n_heads * head_dim)
        norm(f"{blk}.ffn_norm")
        if family != "starcoder2":
            linear(f"{blk}.ffn_gate", ffn, hidden)
        linear(f"{blk}.ffn_up", ffn, hidden)
        linear(f"{blk}.ffn_down", hidden, ffn)
        if family == "gemma3":
            norm(f"{blk}.post_attention_norm")
            norm(f"{blk}.post_ffw_norm")
    norm("output_norm")
    if not tied:
        matrix("output.weight", vocab, hidden)
    if llama3_factors is not None:
        name = "rope_freqs.weight"
        tensors[name] = DenseTensor(name, llama3_factors.shape, "f32", llama3_factors.astype(np.float32))

    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    return TinyModel(meta, tensors, describe(meta, shapes, lambda name: tensors[name].dequantize()))
