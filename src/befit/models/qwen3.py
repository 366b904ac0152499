"""Qwen3 (dense): a Llama whose query and key heads are RMS-normalised before they turn.

Source: Yang et al., "Qwen3 Technical Report", arXiv 2505.09388. No biases; the head size is free of hidden / heads.
"""

from __future__ import annotations

from befit.models.family import Family
from befit.models.parts import Parts
from befit.models.program import Op
from befit.models.rope import make_rope


def _ops(parts: Parts) -> list[Op]:
    c = parts.config
    rope = make_rope(c.rope_dim, c.rope_base, c.rope_scaling)
    ops: list[Op] = [parts.embed()]
    for layer in range(c.n_layers):
        ops += parts.attention(layer, rope, qk_norm=True)
        ops += parts.gated_mlp(layer, "silu")
    return ops + parts.head()


FAMILY = Family(arch="qwen3", runs="Qwen3 (dense)", ops=_ops)
