"""Qwen2, Qwen2.5 and Qwen2.5-Coder: a Llama with biases on q, k and v, and rotation of component halves.

Source: Yang et al., "Qwen2 Technical Report", arXiv 2407.10671. Long contexts use YaRN, which a file may ask for.
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
        ops += parts.attention(layer, rope)
        ops += parts.gated_mlp(layer, "silu")
    return ops + parts.head()


FAMILY = Family(arch="qwen2", runs="Qwen2, Qwen2.5, Qwen2.5-Coder", ops=_ops, qkv_bias="required")
