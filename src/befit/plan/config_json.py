"""Sizes of a model from its `config.json` as Hugging Face's transformers writes it, and from GGUF metadata.

Key names are those of the families' configuration classes in transformers; older ones (GPT-2, GPT-BigCode, Falcon,
MPT) have names of their own, which are tried in turn. What is missing is an error that names it, never a guess.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from befit.errors import UnsupportedModel
from befit.plan.architecture import Architecture

_BIASED = frozenset(("starcoder2", "gpt_bigcode", "gpt2", "gpt_neox", "opt", "bloom", "phi"))
_UNGATED = _BIASED | {"gptj", "codegen", "mpt", "falcon"}
_QKV_BIASED = frozenset(("qwen2", "qwen2_moe", "qwen"))
_QK_NORMED = frozenset(("qwen3", "qwen3_moe", "gemma3", "gemma3_text"))
_LEARNED_POSITIONS = frozenset(("gpt_bigcode", "gpt2", "opt"))
_TIED_BY_DEFAULT = frozenset(
    ("starcoder2", "gpt_bigcode", "gpt2", "gemma", "gemma2", "gemma3", "gemma3_text", "bloom", "falcon", "opt", "mpt")
)
_NESTED = ("text_config", "llm_config", "language_config")
_LARGEST = 2**31 - 1


def from_config(config: Mapping[str, Any]) -> Architecture:
    """The sizes that a `config.json` states. Raises UnsupportedModel naming the key that is missing or wrong."""
    for key in _NESTED:  # models that also see: the part that reads and writes text
        if isinstance(config.get(key), Mapping) and "hidden_size" not in config:
            config = {**config, **config[key]}
    read = _Numbers(config, "config.json")
    family = str(config.get("model_type", "unknown"))
    hidden = read.need("hidden_size", "n_embd", "d_model")
    n_layers = read.need("num_hidden_layers", "n_layer", "n_layers", "num_layers", high=10_000)
    n_heads = read.need("num_attention_heads", "n_head", "n_heads")
    one_kv_head = config.get("multi_query") is True and not config.get("new_decoder_architecture")
    n_kv_heads = 1 if one_kv_head else read.get("num_key_value_heads", "num_kv_heads", default=n_heads)
    head_dim = read.get("head_dim", default=hidden // n_heads)
    latent = read.get("kv_lora_rank", default=0)
    rope = read.get("qk_rope_head_dim", default=0) if latent else 0
    if latent:
        head_dim = read.need("qk_nope_head_dim") + rope
    experts = read.get("n_routed_experts", "num_local_experts", "num_experts", default=0)
    # In mixtures whose experts have a width of their own, intermediate_size is that of the dense layers.
    ffn = read.get("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size", default=4 * hidden)
    expert_ffn = read.get("moe_intermediate_size", default=ffn) if experts else 0
    shared = read.get("shared_expert_intermediate_size", default=0)
    shared = shared or expert_ffn * read.get("n_shared_experts", default=0)
    max_context = read.get("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx", default=2048)
    return Architecture(
        family=family,
        hidden=hidden,
        n_layers=n_layers,
        vocab=read.need("vocab_size"),
        max_context=max_context,
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        head_dim=head_dim,
        value_dim=read.get("v_head_dim", default=head_dim) if latent else head_dim,
        ffn=ffn,
        windows=_windows(config, read, n_layers),
        tied=bool(config.get("tie_word_embeddings", family in _TIED_BY_DEFAULT)),
        gated=family not in _UNGATED,
        qkv_bias=family in _QKV_BIASED or config.get("attention_bias") is True,
        bias=family in _BIASED or config.get("mlp_bias") is True,
        layer_norm=family in _BIASED or family in ("falcon", "mpt", "gptj", "codegen"),
        qk_norm=family in _QK_NORMED,
        positions=max_context if family in _LEARNED_POSITIONS else 0,
        experts=experts,
        used_experts=read.get("num_experts_per_tok", "moe_topk", default=2) if experts else 0,
        expert_ffn=expert_ffn,
        shared_ffn=shared if experts else 0,
        dense_layers=read.get("first_k_dense_replace", default=0) if experts else 0,
        kv_latent=latent,
        latent_rope=rope,
        q_latent=read.get("q_lora_rank", default=0) if latent else 0,
    )


def from_gguf(metadata: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> Architecture:
    """The sizes that GGUF metadata states, for architectures that no family runs. Raises UnsupportedModel likewise."""
    arch = str(metadata.get("general.architecture", ""))
    own = {key.removeprefix(f"{arch}."): metadata[key] for key in metadata if key.startswith(f"{arch}.")}
    read = _Numbers(own, "the file's metadata")
    hidden, n_layers = read.need("embedding_length"), read.need("block_count", high=10_000)
    n_heads = read.need("attention.head_count")
    embedding = shapes.get("token_embd.weight")
    if embedding is None:
        raise UnsupportedModel("the file has no tensor token_embd.weight, so its vocabulary is unknown.")
    latent = read.get("attention.kv_lora_rank", default=0)
    head_dim = read.get("attention.key_length_mla", "attention.key_length", default=hidden // n_heads)
    experts = read.get("expert_count", default=0)
    ffn = read.get("feed_forward_length", default=0) or read.get("expert_feed_forward_length", default=4 * hidden)
    expert_ffn = read.get("expert_feed_forward_length", default=ffn) if experts else 0
    window = read.get("attention.sliding_window", default=0) or None
    return Architecture(
        family=arch,
        hidden=hidden,
        n_layers=n_layers,
        vocab=embedding[0],
        max_context=read.get("context_length", default=2048),
        n_heads=n_heads,
        n_kv_heads=read.get("attention.head_count_kv", default=n_heads),
        head_dim=head_dim,
        value_dim=read.get("attention.value_length_mla", "attention.value_length", default=head_dim),
        ffn=ffn,
        windows=(window,) * n_layers,
        tied="output.weight" not in shapes,
        gated="blk.0.ffn_gate.weight" in shapes or experts > 0,
        experts=experts,
        used_experts=read.get("expert_used_count", default=2) if experts else 0,
        expert_ffn=expert_ffn,
        shared_ffn=expert_ffn * read.get("expert_shared_count", default=0) if experts else 0,
        dense_layers=read.get("leading_dense_block_count", default=0) if experts else 0,
        kv_latent=latent,
        latent_rope=read.get("rope.dimension_count", default=64) if latent else 0,
        q_latent=read.get("attention.q_lora_rank", default=0) if latent else 0,
    )


def _windows(config: Mapping[str, Any], read: _Numbers, n_layers: int) -> tuple[int | None, ...]:
    """The window of each layer: by name in new files (layer_types), by a period, or the same for all."""
    window = read.get("sliding_window", default=0)
    if not window or config.get("use_sliding_window") is False:
        return (None,) * n_layers
    kinds = config.get("layer_types")
    if isinstance(kinds, list) and len(kinds) == n_layers:
        return tuple(window if kind == "sliding_attention" else None for kind in kinds)
    period = read.get("sliding_window_pattern", "_sliding_window_pattern", default=0)
    return tuple(None if period and layer % period == period - 1 else window for layer in range(n_layers))


class _Numbers:
    """Positive integers by key, the first of several names that is there. null is the same as absent."""

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self.values = values
        self.where = where

    def need(self, *keys: str, high: int = _LARGEST) -> int:
        value = self.get(*keys, default=0, high=high)
        if value == 0:
            raise UnsupportedModel(f"{self.where} has no {' or '.join(keys)}, without which its size is unknown.")
        return value

    def get(self, *keys: str, default: int, high: int = _LARGEST) -> int:
        for key in keys:
            value = self.values.get(key)
            if value is None:
                continue
            entries = list(value) if isinstance(value, list | tuple) or hasattr(value, "tolist") else [value]
            if not entries:
                continue
            number = max(int(entry) for entry in entries) if all(map(_is_integer, entries)) else -1
            if not 0 <= number <= high:
                raise UnsupportedModel(f"{key} of {self.where} is {value!r}; it must be a whole number up to {high}.")
            return number
        return default


def _is_integer(value: Any) -> bool:
    return not isinstance(value, bool) and hasattr(value, "__index__")
