"""Model families: each is one short file that describes a model as a `Program`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from befit.errors import UnsupportedModel
from befit.models import gemma3, llama, qwen2, qwen3, starcoder2
from befit.models.config import read_config
from befit.models.parts import Parts, ReadVector, Weights
from befit.models.program import Program

__all__ = ["FAMILIES", "Program", "describe"]

FAMILIES = {f.arch: f for f in (m.FAMILY for m in (llama, qwen2, qwen3, starcoder2, gemma3))}
"""Every family, by its GGUF architecture name."""


def describe(
    metadata: Mapping[str, Any],
    tensor_shapes: Mapping[str, tuple[int, ...]],
    read_vector: ReadVector | None = None,
) -> Program:
    """The `Program` of a GGUF file, from its metadata and the shapes of its tensors (rows first).

    read_vector(name) returns the values of a small 1-D tensor, e.g. `lambda name: file.tensors[name].dequantize()`.
    Only Llama 3 files need it (`rope_freqs.weight`); without it such a file raises ValueError.

    Raises UnsupportedModel when the architecture is unknown, a key is missing or asks for what no op computes, a tensor
    is missing or has another shape, or the file holds tensors that the program would not use.
    """
    arch = metadata.get("general.architecture")
    family = FAMILIES.get(arch) if isinstance(arch, str) else None
    if family is None:
        runs = "; ".join(f"{name} ({f.runs})" for name, f in FAMILIES.items())
        raise UnsupportedModel(f"the file's architecture is {arch!r}; befit runs {runs}.")
    config = read_config(
        metadata,
        len(tensor_shapes),
        default_window=family.default_window,
        default_window_period=family.default_window_period,
        default_local_base=family.default_local_base,
        default_interleaved=family.interleaved,
    )
    weights = Weights(tensor_shapes)
    parts = Parts(config, weights, read_vector, norm_kind=family.norm_kind, qkv_bias=family.qkv_bias, bias=family.bias)
    ops = tuple(family.ops(parts))
    weights.refuse_unused(family.arch)
    return Program(
        family=family.arch,
        vocab_size=parts.vocab_size,
        hidden_size=config.hidden_size,
        n_layers=config.n_layers,
        max_context=config.max_context,
        ops=ops,
    )
