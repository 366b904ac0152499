"""Code models that can be planned by name alone, without a file or a network, and the sizes of their families.

The numbers are those of each model's published `config.json`; tests compare the parameters that follow from them with
those that the publishers state. The store's catalogue says of the same models where they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_KEYS = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "intermediate_size",
    "vocab_size",
    "max_position_embeddings",
    "tie_word_embeddings",
)
_Row = tuple[int, int, int, int, int, int, int, bool]


def _family(model_type: str, rows: Mapping[str, _Row], **more: Any) -> dict[str, dict[str, Any]]:
    """Configurations by tag; the first tag of a family is its smallest model."""
    return {tag: {"model_type": model_type, **dict(zip(_KEYS, row, strict=True)), **more} for tag, row in rows.items()}


FAMILIES: dict[str, dict[str, dict[str, Any]]] = {
    "smollm2": _family(
        "llama",
        {
            "135m": (576, 30, 9, 3, 1536, 49152, 8192, True),
            "360m": (960, 32, 15, 5, 2560, 49152, 8192, True),
            "1.7b": (2048, 24, 32, 32, 8192, 49152, 8192, True),
        },
    ),
    "qwen2.5-coder": _family(
        "qwen2",
        {
            "0.5b": (896, 24, 14, 2, 4864, 151936, 32768, True),
            "1.5b": (1536, 28, 12, 2, 8960, 151936, 32768, True),
            "3b": (2048, 36, 16, 2, 11008, 151936, 32768, True),
            "7b": (3584, 28, 28, 4, 18944, 152064, 32768, False),
            "14b": (5120, 48, 40, 8, 13824, 152064, 32768, False),
            "32b": (5120, 64, 40, 8, 27648, 152064, 32768, False),
        },
    ),
    "qwen3-coder": _family(
        "qwen3_moe",
        {"30b-a3b": (2048, 48, 32, 4, 5472, 151936, 262144, False)},
        head_dim=128,
        num_experts=128,
        num_experts_per_tok=8,
        moe_intermediate_size=768,
    ),
    "deepseek-coder": _family(
        "llama",
        {
            "1.3b": (2048, 24, 16, 16, 5504, 32256, 16384, False),
            "6.7b": (4096, 32, 32, 32, 11008, 32256, 16384, False),
            "33b": (7168, 62, 56, 8, 19200, 32256, 16384, False),
        },
    ),
    "deepseek-coder-v2": _family(
        "deepseek_v2",
        {"lite": (2048, 27, 16, 16, 10944, 102400, 163840, False)},
        kv_lora_rank=512,
        qk_nope_head_dim=128,
        qk_rope_head_dim=64,
        v_head_dim=128,
        n_routed_experts=64,
        num_experts_per_tok=6,
        n_shared_experts=2,
        moe_intermediate_size=1408,
        first_k_dense_replace=1,
    ),
    "codellama": _family(
        "llama",
        {
            "7b": (4096, 32, 32, 32, 11008, 32016, 16384, False),
            "13b": (5120, 40, 40, 40, 13824, 32016, 16384, False),
            "34b": (8192, 48, 64, 8, 22016, 32000, 16384, False),
        },
    ),
    "starcoder2": _family(
        "starcoder2",
        {
            "3b": (3072, 30, 24, 2, 12288, 49152, 16384, True),
            "7b": (4608, 32, 36, 4, 18432, 49152, 16384, True),
            "15b": (6144, 40, 48, 4, 24576, 49152, 16384, False),
        },
        sliding_window=4096,
    ),
    "codestral": _family("mistral", {"22b": (6144, 56, 48, 8, 16384, 32768, 32768, False)}),
    "codegemma": _family(
        "gemma",
        {
            "2b": (2048, 18, 8, 1, 16384, 256000, 8192, True),
            "7b": (3072, 28, 16, 16, 24576, 256000, 8192, True),
        },
        head_dim=256,
    ),
    "granite-code": _family(
        "llama",
        {
            "3b": (2560, 32, 32, 32, 10240, 49152, 2048, True),
            "8b": (4096, 36, 32, 8, 14336, 49152, 4096, True),
        },
        attention_bias=True,
        mlp_bias=True,
    ),
}
