"""The sizes and constants of a model, read from GGUF metadata and checked before anything is built from them.

Keys are GGUF's `<architecture>.<name>`; their meanings and defaults are those of the GGUF specification
(ggml `docs/gguf.md`). A file is not trusted: every number is checked for its type and range, and a key that would
change the computation in a way no op expresses is refused rather than ignored.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from befit.errors import UnsupportedModel
from befit.models.rope import RopeScaling, ScalingKind

MAX_HEAD_DIM = 1024
_HEAD_DIM_STEP = 32

# What these keys ask for has no op; each is fine at the values listed, which mean "off".
_MUST_BE_OFF: dict[str, tuple[float, ...]] = {
    "expert_count": (0,),
    "attn_logit_softcapping": (0,),
    "final_logit_softcapping": (0,),
    "logit_scale": (0, 1),
    "embedding_scale": (0, 1),
    "residual_scale": (0, 1),
    "use_parallel_residual": (0,),
    "nextn_predict_layers": (0,),
    "attention.causal": (1,),
    "attention.max_alibi_bias": (0,),
    "attention.clamp_kqv": (0,),
    "attention.output_scale": (0, 1),
    "attention.shared_kv_layers": (0,),
    "attention.temperature_scale": (0,),
    "rope.scaling.alpha": (0,),
    "rope.scaling.yarn_log_multiplier": (0,),
    "rope.scaling.yarn_ext_factor": (-1, 1),
}


_SCALINGS: dict[str, ScalingKind] = {"none": "none", "linear": "linear", "llama3": "llama3", "yarn": "yarn"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """One model's numbers.

    n_heads, n_kv_heads, ffn_size and windows have one entry a layer; windows[i] is None where layer i sees everything.
    rope_dim components of each head turn, in pairs (2i, 2i+1) if rope_interleaved; rope_base_local is the base of
    windowed layers where it differs.
    attention_scale is None unless the file sets it (then it replaces 1/sqrt(head_dim)).
    """

    arch: str
    n_layers: int
    hidden_size: int
    max_context: int
    n_heads: tuple[int, ...]
    n_kv_heads: tuple[int, ...]
    ffn_size: tuple[int, ...]
    head_dim: int
    norm_eps: float
    windows: tuple[int | None, ...]
    attention_scale: float | None
    rope_dim: int
    rope_base: float
    rope_base_local: float | None
    rope_scaling: RopeScaling
    rope_interleaved: bool


def read_config(
    metadata: Mapping[str, Any],
    n_tensors: int,
    *,
    default_window: int | None = None,
    default_window_period: int = 0,
    default_local_base: float | None = None,
    default_interleaved: bool = False,
) -> ModelConfig:
    """Read and check the metadata of a file with `n_tensors` tensors.

    default_window, default_window_period and default_local_base are what the family means when the file leaves out
    `attention.sliding_window`, `attention.sliding_window_pattern` and `rope.freq_base_swa`; default_interleaved
    likewise for `rope.interleaved`, which only models from Hugging Face folders have.
    Raises UnsupportedModel naming the key that is missing or wrong.
    """
    read = _Reader(metadata)
    _refuse_what_has_no_op(read)

    n_layers = read.integer("block_count", low=1, high=n_tensors)
    hidden = read.integer("embedding_length", low=1)
    n_heads = read.integers("attention.head_count", n_layers)
    n_kv_heads = read.integers("attention.head_count_kv", n_layers, default=n_heads)
    for layer, (heads, kv_heads) in enumerate(zip(n_heads, n_kv_heads, strict=True)):
        if heads % kv_heads:
            raise UnsupportedModel(f"layer {layer} has {heads} query heads, not a multiple of its {kv_heads} KV heads.")

    head_dim = read.integer("attention.key_length", default=hidden // n_heads[0], low=1)
    if head_dim % _HEAD_DIM_STEP or head_dim > MAX_HEAD_DIM:
        raise UnsupportedModel(
            f"heads have {head_dim} components; befit runs multiples of {_HEAD_DIM_STEP} up to {MAX_HEAD_DIM}."
        )
    for key in ("attention.value_length", "attention.key_length_swa", "attention.value_length_swa"):
        if (other := read.integer(key, default=head_dim)) != head_dim:
            raise UnsupportedModel(
                f"{read.full(key)} is {other} and keys have {head_dim} components; befit runs models where all agree."
            )

    rope_dim = read.integer("rope.dimension_count", default=head_dim, low=2, high=head_dim)
    if rope_dim % 2 or read.integer("rope.dimension_count_swa", default=rope_dim) != rope_dim:
        raise UnsupportedModel(f"{read.full('rope.dimension_count')} must be even and the same in every layer.")

    max_context = read.integer("context_length", low=1)
    return ModelConfig(
        arch=read.arch,
        n_layers=n_layers,
        hidden_size=hidden,
        max_context=max_context,
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        ffn_size=read.integers("feed_forward_length", n_layers),
        head_dim=head_dim,
        norm_eps=read.first_positive("attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon"),
        windows=_windows(read, n_layers, default_window, default_window_period),
        attention_scale=read.number("attention.scale", default=0.0) or None,
        rope_dim=rope_dim,
        rope_base=read.positive("rope.freq_base", default=10000.0, above=1.0),
        rope_base_local=read.positive("rope.freq_base_swa", default=default_local_base, above=1.0),
        rope_scaling=_rope_scaling(read, max_context),
        rope_interleaved=bool(read.integer("rope.interleaved", default=int(default_interleaved), high=1)),
    )


def _refuse_what_has_no_op(read: _Reader) -> None:
    if read.integer("expert_count", default=0) > 0:
        raise UnsupportedModel(
            f"the file is a mixture of experts ({read.full('expert_count')} is {read.integer('expert_count')}); "
            "befit runs dense models: use the dense model of the same family."
        )
    for key, off in _MUST_BE_OFF.items():
        value = read.number(key, default=float(off[0]))
        if value not in off:
            raise UnsupportedModel(
                f"{read.full(key)} is {value:g}; befit cannot compute that and runs such files only when it is "
                f"absent or {' or '.join(map(str, off))}."
            )


def _windows(read: _Reader, n_layers: int, default: int | None, default_period: int) -> tuple[int | None, ...]:
    """The window of each layer. The pattern is a period p (every p-th layer sees everything) or a flag a layer."""
    window = read.integer("attention.sliding_window", default=default or 0)
    if not window:
        return (None,) * n_layers
    key = "attention.sliding_window_pattern"
    pattern = read.get(key)
    if isinstance(pattern, np.ndarray | list | tuple):
        if len(pattern) != n_layers:
            raise UnsupportedModel(f"{read.full(key)} has {len(pattern)} entries for {n_layers} layers.")
        return tuple(window if local else None for local in pattern)
    period = read.integer(key, default=default_period)
    return tuple(None if period and layer % period == period - 1 else window for layer in range(n_layers))


def _rope_scaling(read: _Reader, max_context: int) -> RopeScaling:
    """`rope.scaling.*`; `rope.scale_linear` is how files of 2023 spelled a linear factor."""
    name = read.get("rope.scaling.type", "linear")
    kind = _SCALINGS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise UnsupportedModel(f"{read.full('rope.scaling.type')} is {name!r}; befit knows {', '.join(_SCALINGS)}.")
    old_factor = read.positive("rope.scale_linear", default=1.0)
    factor = read.positive("rope.scaling.factor", default=old_factor)
    original = read.integer("rope.scaling.original_context_length", default=max_context, low=1)
    attention = read.positive("rope.scaling.attn_factor", default=1.0)
    low = read.positive("rope.scaling.low_freq_factor", default=1.0)
    return RopeScaling(
        kind=kind,
        factor=factor,
        original_context=original,
        attention_factor=attention * read.positive("rope.scaling.yarn_attn_factor", default=1.0),
        beta_fast=read.positive("rope.scaling.yarn_beta_fast", default=32.0),
        beta_slow=read.positive("rope.scaling.yarn_beta_slow", default=1.0),
        low_freq_factor=low,
        high_freq_factor=read.positive("rope.scaling.high_freq_factor", default=4.0 * low, above=low),
    )


class _Reader:
    """Typed access to `<arch>.*`. Without a default a missing key is an error."""

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        self.metadata = metadata
        self.arch = str(metadata["general.architecture"])

    def full(self, key: str) -> str:
        return f"{self.arch}.{key}"

    def get(self, key: str, default: Any = None) -> Any:
        return self.metadata.get(self.full(key), default)

    def number(self, key: str, *, default: float | None = None) -> float:
        value = self.get(key, default)
        if value is None:
            raise UnsupportedModel(f"the file has no {self.full(key)}, which a {self.arch} model needs.")
        return self._finite(key, value)

    def positive(self, key: str, *, default: float | None = None, above: float = 0.0) -> Any:
        """A number above `above`; None only where the default is None and the key is absent."""
        if default is None and self.get(key) is None:
            return None
        value = self.number(key, default=default)
        if value <= above:
            raise UnsupportedModel(f"{self.full(key)} is {value:g}; it must be above {above:g}.")
        return value

    def first_positive(self, *keys: str) -> float:
        for key in keys:
            if self.get(key) is not None:
                return float(self.positive(key))
        raise UnsupportedModel(f"the file has none of {', '.join(map(self.full, keys))}; one is needed.")

    def integer(self, key: str, *, default: int | None = None, low: int = 0, high: int = 2**31 - 1) -> int:
        return self._checked(key, self.number(key, default=default), low, high)

    def integers(self, key: str, n: int, *, default: tuple[int, ...] | None = None) -> tuple[int, ...]:
        """One positive integer a layer: the file may give one for all."""
        value = self.get(key)
        if value is None and default is not None:
            return default
        if not isinstance(value, np.ndarray | list | tuple):
            return (self.integer(key, low=1),) * n
        if len(value) != n:
            raise UnsupportedModel(f"{self.full(key)} has {len(value)} entries for {n} layers.")
        return tuple(self._entry(f"{key}[{i}]", entry) for i, entry in enumerate(value))

    def _entry(self, key: str, value: Any) -> int:
        return self._checked(key, self._finite(key, value), 1, 2**31 - 1)

    def _finite(self, key: str, value: Any) -> float:
        if not isinstance(value, bool | int | float | np.number | np.bool_) or not math.isfinite(value):
            raise UnsupportedModel(f"{self.full(key)} is {value!r}; it must be one finite number.")
        return float(value)

    def _checked(self, key: str, value: float, low: int, high: int) -> int:
        if value != int(value) or not low <= value <= high:
            raise UnsupportedModel(f"{self.full(key)} is {value:g}; it must be an integer from {low} to {high}.")
        return int(value)
