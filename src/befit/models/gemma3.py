"""Gemma 3 (text): scaled embeddings, norms before and after each block, q/k norms, GeGLU, and two kinds of layers.

Five of six layers see a sliding window and turn with base 10000; every sixth sees everything and turns with the file's
base and scaling (Gemma Team, "Gemma 3 Technical Report", arXiv 2503.19786). GGUF stores the norms' weights with Gemma's
"1 +" already added. Queries are scaled by 1/sqrt(head_dim), but in the 27B by 1/sqrt(hidden / heads), which no key of
the file says: it is told by its 62 layers.
"""

from __future__ import annotations

import math

from befit.models.family import Family
from befit.models.parts import Parts
from befit.models.program import Op
from befit.models.rope import RopeScaling, make_rope

LAYERS_OF_27B = 62


def _ops(parts: Parts) -> list[Op]:
    c = parts.config
    everywhere = make_rope(c.rope_dim, c.rope_base, c.rope_scaling)
    within_window = make_rope(c.rope_dim, c.rope_base_local or c.rope_base, RopeScaling())
    scale = (c.hidden_size / c.n_heads[0]) ** -0.5 if c.n_layers == LAYERS_OF_27B else None
    ops: list[Op] = [parts.embed(scale=math.sqrt(c.hidden_size))]
    for layer in range(c.n_layers):
        rope = everywhere if c.windows[layer] is None else within_window
        ops += parts.attention(layer, rope, scale=scale, qk_norm=True, post_norm="post_attention_norm")
        ops += parts.gated_mlp(layer, "gelu_tanh", post_norm="post_ffw_norm")
    return ops + parts.head()


FAMILY = Family(
    arch="gemma3",
    runs="Gemma 3 (text)",
    ops=_ops,
    default_window_period=6,
    default_local_base=10000.0,
)
