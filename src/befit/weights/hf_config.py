"""A Hugging Face `config.json` and `generation_config.json` as GGUF metadata, which is what models are described from.

Key names are those of the families' configuration classes in transformers, and their defaults too; GGUF's are those of
its specification and of its converters. Two keys say what no GGUF key does: `<arch>.rope.interleaved`, false because
these checkpoints keep Llama's q and k unpermuted, and `tokenizer.ggml.end_token_ids`, all ids that end a generation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from befit.errors import UnsupportedModel

ARCHITECTURES = {
    "llama": "llama",
    "mistral": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "starcoder2": "starcoder2",
    "gemma3_text": "gemma3",
    "gemma3": "gemma3",
}
"""Families of `befit.models` by the model_type of a config.json."""

_ACTIVATIONS = {"llama": "silu", "qwen2": "silu", "qwen3": "silu"}
_GELU = "gelu_pytorch_tanh"
_TIED = frozenset({"starcoder2", "gemma3"})
_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "gemma3": {
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "rope_local_base_freq": 1e4,
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
        "hidden_activation": _GELU,
    },
    "llama": {"rms_norm_eps": 1e-6, "hidden_act": "silu", "rope_theta": 1e4},
    "qwen2": {"rms_norm_eps": 1e-6, "hidden_act": "silu", "rope_theta": 1e4},
    "qwen3": {"rms_norm_eps": 1e-6, "hidden_act": "silu", "rope_theta": 1e4, "head_dim": 128},
    "starcoder2": {"norm_epsilon": 1e-5, "hidden_act": _GELU, "rope_theta": 1e4},
}
_SAMPLING = {
    "temperature": "temp",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "repetition_penalty": "penalty_repeat",
}


def architecture_of(config: Mapping[str, Any], where: str) -> str:
    """The GGUF name of the architecture. Raises UnsupportedModel for one that befit does not have, by name, and for a
    model that comes with code of its own, which is never run."""
    kind = config.get("model_type")
    if isinstance(own := config.get("auto_map"), Mapping) and own:
        names = ", ".join(f"{key} {value}" for key, value in own.items())
        raise UnsupportedModel(
            f"{where}: the model wants Python code of its own to be run (auto_map: {names:.200}), which befit never "
            f"does; model_type is {kind!r:.80}. Use a model of {_runs()}, without auto_map."
        )
    if not isinstance(kind, str) or kind not in ARCHITECTURES:
        raise UnsupportedModel(f"{where}: model_type is {kind!r:.80}; befit runs {_runs()}.")
    return ARCHITECTURES[kind]


def _runs() -> str:
    return ", ".join(ARCHITECTURES)


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The configuration of the part that reads and writes text, of a model that also sees."""
    inner = config.get("text_config")
    return {**config, **inner} if isinstance(inner, Mapping) else config


def is_tied(config: Mapping[str, Any], architecture: str) -> bool:
    """Whether the head is the embedding."""
    tied = config.get("tie_word_embeddings")
    return tied if isinstance(tied, bool) else architecture in _TIED


def metadata_of(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """GGUF metadata of a model. Raises UnsupportedModel naming the key that is missing, wrong or not computable.

    Ranges are checked by `befit.models.config`, as for every file.
    """
    arch = architecture_of(config, where)
    read = _Config({**_DEFAULTS[arch], **{k: v for k, v in text_config(config).items() if v is not None}}, where)
    hidden, heads = read.integer("hidden_size"), read.integer("num_attention_heads")
    layers = read.integer("num_hidden_layers")
    head_dim = read.integer("head_dim", hidden // heads)
    _check_activation(read, arch)
    keys: dict[str, Any] = {
        "block_count": layers,
        "embedding_length": hidden,
        "feed_forward_length": read.integer("intermediate_size"),
        "context_length": read.integer("max_position_embeddings"),
        "attention.head_count": heads,
        "attention.head_count_kv": read.integer("num_key_value_heads", heads),
        "attention.key_length": head_dim,
        "attention.value_length": head_dim,
        "attention.sliding_window": 0,
        "rope.interleaved": False,
    }
    if arch == "starcoder2":
        keys["attention.layer_norm_epsilon"] = read.number("norm_epsilon")
    else:
        keys["attention.layer_norm_rms_epsilon"] = read.number("rms_norm_eps")
    if arch == "gemma3":
        keys["attention.scale"] = read.number("query_pre_attn_scalar") ** -0.5
        for cap in ("attn_logit_softcapping", "final_logit_softcapping"):
            keys[cap] = read.number(cap, 0.0)
    keys |= _windows(read, arch, layers)
    keys |= _rope(read, arch, head_dim)
    if keys.get("rope.scaling.type") == "yarn":  # published configurations state the context before stretching
        stretched = int(keys["rope.scaling.factor"] * keys["rope.scaling.original_context_length"])
        keys["context_length"] = max(keys["context_length"], stretched)
    return {"general.architecture": arch, **{f"{arch}.{key}": value for key, value in keys.items()}}


def sampling_of(generation: Mapping[str, Any], where: str) -> dict[str, Any]:
    """What a `generation_config.json` says of sampling, as GGUF's `general.sampling.*`."""
    read = _Config({k: v for k, v in generation.items() if v is not None}, where)
    keys: dict[str, Any] = {}
    for name, key in _SAMPLING.items():
        if name in read.values:
            keys[f"general.sampling.{key}"] = read.integer(name) if name == "top_k" else read.number(name)
    if read.values.get("do_sample") is False:
        keys["general.sampling.temp"] = 0.0
    return keys


def _check_activation(read: _Config, arch: str) -> None:
    names = ("hidden_activation",) if arch == "gemma3" else ("hidden_act",)
    wanted = _ACTIVATIONS.get(arch, _GELU)
    for name in names:
        if (found := read.values.get(name, wanted)) != wanted:
            raise UnsupportedModel(f"{read.where}: {name} is {found!r:.80}; befit's {arch} computes {wanted!r} only.")


def _windows(read: _Config, arch: str, layers: int) -> dict[str, Any]:
    """The sliding window, and which layers have it: a flag a layer where not all do."""
    window = read.integer("sliding_window", 0)
    if arch in ("qwen2", "qwen3") and read.values.get("use_sliding_window") is not True:
        window = 0
    if not window:
        return {}
    kinds = read.values.get("layer_types")
    if kinds is not None:
        if not isinstance(kinds, list) or len(kinds) != layers:
            raise UnsupportedModel(f"{read.where}: layer_types is no list of {layers} names, one a layer.")
        if strange := set(map(str, kinds)) - {"sliding_attention", "full_attention"}:
            raise UnsupportedModel(f"{read.where}: layer_types has {min(strange)!r:.80}, which befit does not compute.")
        local = [kind == "sliding_attention" for kind in kinds]
    elif arch == "gemma3":
        period = read.integer("sliding_window_pattern", read.integer("_sliding_window_pattern", 6))
        local = [not period or layer % period != period - 1 for layer in range(layers)]
    elif arch in ("qwen2", "qwen3"):
        first = read.integer("max_window_layers", 28)
        local = [layer >= first for layer in range(layers)]
    else:
        local = [True] * layers
    return {"attention.sliding_window": window, "attention.sliding_window_pattern": local}


def _rope(read: _Config, arch: str, head_dim: int) -> dict[str, Any]:
    """Bases and scaling: under rope_parameters in files of transformers 5, in keys of their own before."""
    found = read.values.get("rope_parameters") or read.values.get("rope_scaling") or {}
    if not isinstance(found, Mapping):
        raise UnsupportedModel(f"{read.where}: rope_parameters is {found!r:.80}, not an object.")
    local: Mapping[str, Any] = {}
    if isinstance(inner := found.get("full_attention"), Mapping):
        other = found.get("sliding_attention")
        found, local = inner, other if isinstance(other, Mapping) else {}
    rope = _Config({k: v for k, v in found.items() if v is not None}, f"{read.where}: rope_parameters")
    keys: dict[str, Any] = {"rope.freq_base": rope.number("rope_theta", read.number("rope_theta"))}
    if arch == "gemma3":
        base = local.get("rope_theta") or read.number("rope_local_base_freq")
        keys["rope.freq_base_swa"] = _Config({"rope_theta": base}, rope.where).number("rope_theta")
        if local.get("rope_type", "default") != "default":
            raise UnsupportedModel(f"{rope.where}: sliding_attention has rope_type {local['rope_type']!r:.80}.")
    part = rope.number("partial_rotary_factor", read.number("partial_rotary_factor", 1.0))
    keys["rope.dimension_count"] = int(head_dim * part)
    kind = rope.values.get("rope_type", rope.values.get("type", "default"))
    if kind == "default":
        return keys
    if kind not in ("linear", "llama3", "yarn"):
        raise UnsupportedModel(f"{rope.where}: rope_type is {kind!r:.80}; befit knows default, linear, llama3, yarn.")
    factor = rope.number("factor")
    original = rope.integer("original_max_position_embeddings", read.integer("max_position_embeddings"))
    keys |= {"rope.scaling.type": kind, "rope.scaling.factor": factor}
    keys["rope.scaling.original_context_length"] = original
    if kind == "llama3":
        keys["rope.scaling.low_freq_factor"] = rope.number("low_freq_factor")
        keys["rope.scaling.high_freq_factor"] = rope.number("high_freq_factor")
    if kind == "yarn":
        if (off := next((k for k in ("mscale", "mscale_all_dim") if rope.values.get(k)), None)) is not None:
            raise UnsupportedModel(f"{rope.where}: {off} is {rope.values[off]!r:.40}, which befit does not compute.")
        if rope.values.get("truncate", True) is not True:
            raise UnsupportedModel(f"{rope.where}: truncate is false, which befit does not compute.")
        keys["rope.scaling.yarn_beta_fast"] = rope.number("beta_fast", 32.0)
        keys["rope.scaling.yarn_beta_slow"] = rope.number("beta_slow", 1.0)
        if "attention_factor" in rope.values and factor > 1:  # GGUF's multiplies the scheme's own
            own = 0.1 * math.log(factor) + 1.0
            keys["rope.scaling.attn_factor"] = rope.number("attention_factor") / own
    return keys


class _Config:
    """Numbers by key; null is the same as absent. Without a default a missing key is an error."""

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self.values = values
        self.where = where

    def number(self, key: str, default: float | None = None) -> float:
        value = self.values.get(key, default)
        if value is None:
            raise UnsupportedModel(f"{self.where}: there is no {key}, which the model needs.")
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise UnsupportedModel(f"{self.where}: {key} is {value!r:.80}; it must be one finite number.")
        return float(value)

    def integer(self, key: str, default: int | None = None) -> int:
        value = self.number(key, default)
        if value != int(value) or not 0 <= value < 2**31:
            raise UnsupportedModel(f"{self.where}: {key} is {value:g}; it must be a whole number.")
        if value == 0 and default is None:
            raise UnsupportedModel(f"{self.where}: {key} is 0; it must be above 0.")
        return int(value)
