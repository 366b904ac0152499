"""Llama, and everything whose GGUF architecture is "llama": SmolLM2, CodeLlama, DeepSeek-Coder, Mistral, Llama 3.

RMSNorm, grouped-query attention with rotary embedding, SwiGLU (Touvron et al., arXiv 2302.13971). GGUF stores q and k
of this architecture permuted for interleaved rotation; Hugging Face folders do not. DeepSeek-Coder stretches positions
linearly; Llama 3 by a vector of frequency factors in the tensor `rope_freqs.weight`; Mistral (arXiv 2310.06825) may
have a sliding window.
"""

from __future__ import annotations

from befit.models.family import Family
from befit.models.parts import Parts
from befit.models.program import Op
from befit.models.rope import make_rope


def _ops(parts: Parts) -> list[Op]:
    c = parts.config
    factors = parts.vector("rope_freqs.weight", c.rope_dim // 2)
    rope = make_rope(c.rope_dim, c.rope_base, c.rope_scaling, interleaved=c.rope_interleaved, factors=factors)
    ops: list[Op] = [parts.embed()]
    for layer in range(c.n_layers):
        ops += parts.attention(layer, rope)
        ops += parts.gated_mlp(layer, "silu")
    return ops + parts.head()


FAMILY = Family(
    arch="llama", runs="Llama 1-3, SmolLM, CodeLlama, DeepSeek-Coder 1, Mistral", ops=_ops, interleaved=True
)
