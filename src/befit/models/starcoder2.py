"""StarCoder2: LayerNorm, biases everywhere, an MLP without a gate, attention within a sliding window.

Source: Lozhkov et al., "StarCoder 2 and The Stack v2", arXiv 2402.19173. All sizes were trained with a window of 4096
tokens; GGUF converters leave it out of the file, so it is the default here. A window of 0 in a file means none.
"""

from __future__ import annotations

from befit.models.family import Family
from befit.models.parts import Parts
from befit.models.program import Act, Add, Op
from befit.models.rope import make_rope

TRAINED_WINDOW = 4096


def _ops(parts: Parts) -> list[Op]:
    c = parts.config
    rope = make_rope(c.rope_dim, c.rope_base, c.rope_scaling)
    ops: list[Op] = [parts.embed()]
    for layer in range(c.n_layers):
        hidden, width = c.hidden_size, c.ffn_size[layer]
        ops += parts.attention(layer, rope)
        ops += [
            parts.norm(f"blk.{layer}.ffn_norm"),
            parts.linear("u", "n", f"blk.{layer}.ffn_up", width, hidden),
            Act("a", "u", "gelu_tanh"),
            parts.linear("o", "a", f"blk.{layer}.ffn_down", hidden, width),
            Add("h", "h", "o"),
        ]
    return ops + parts.head()


FAMILY = Family(
    arch="starcoder2",
    runs="StarCoder2",
    ops=_ops,
    norm_kind="layer",
    qkv_bias="required",
    bias="required",
    default_window=TRAINED_WINDOW,
)
