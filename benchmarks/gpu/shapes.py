"""Shapes of real models, as programs without weights."""

from __future__ import annotations

from typing import Any

from befit.models import describe
from befit.models.program import Program

# hidden, layers, heads, KV heads, head width, MLP width, vocabulary, tied
SHAPES = {
    "tiny": (256, 2, 4, 2, 64, 512, 1000, True),
    "1b": (2048, 16, 32, 8, 64, 8192, 128256, True),
    "7b": (4096, 32, 32, 32, 128, 11008, 32016, False),
    "8b": (4096, 32, 32, 8, 128, 14336, 128256, False),
    "13b": (5120, 40, 40, 40, 128, 13824, 32016, False),
}


def program_of(name: str, family: str = "llama", context: int = 8192) -> tuple[Program, dict[str, tuple[int, ...]]]:
    """The program, and the shapes of its weights by name."""
    hidden, layers, heads, kv, width, ffn, vocab, tied = SHAPES[name]
    keys: dict[str, Any] = {
        "block_count": layers,
        "embedding_length": hidden,
        "feed_forward_length": ffn,
        "context_length": context,
        "attention.head_count": heads,
        "attention.head_count_kv": kv,
        "attention.key_length": width,
        "attention.value_length": width,
        "rope.freq_base": 10000.0,
        "attention.layer_norm_rms_epsilon": 1e-5,
    }
    metadata = {"general.architecture": family, **{f"{family}.{key}": value for key, value in keys.items()}}
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (vocab, hidden), "output_norm.weight": (hidden,)}
    if not tied:
        shapes["output.weight"] = (vocab, hidden)
    for layer in range(layers):
        block = f"blk.{layer}"
        shapes |= {
            f"{block}.attn_norm.weight": (hidden,),
            f"{block}.attn_q.weight": (heads * width, hidden),
            f"{block}.attn_k.weight": (kv * width, hidden),
            f"{block}.attn_v.weight": (kv * width, hidden),
            f"{block}.attn_output.weight": (hidden, heads * width),
            f"{block}.ffn_norm.weight": (hidden,),
            f"{block}.ffn_gate.weight": (ffn, hidden),
            f"{block}.ffn_up.weight": (ffn, hidden),
            f"{block}.ffn_down.weight": (hidden, ffn),
        }
        if family == "qwen2":
            shapes |= {f"{block}.attn_{part}.bias": shapes[f"{block}.attn_{part}.weight"][:1] for part in "qkv"}
    return describe(metadata, shapes), shapes
