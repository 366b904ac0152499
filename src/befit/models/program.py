"""The op vocabulary: a model is a flat list of frozen ops over named values and named weights.

A `Program` is data. A backend interprets or lowers it, the planner sums it; none of them knows a model family.

Values are named by strings and live for one step. Each is a float32 matrix `[T, width]` over the T tokens of the
step (all sequences packed one after the other). An op may write a value it reads (`Add(out="h", a="h", b="o")`).
Weights are named as GGUF names them (`blk.3.attn_q.weight`); other formats translate to these names.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

Activation: TypeAlias = Literal["silu", "gelu_tanh", "gelu_erf"]

KV_BYTES = {"f16": (2, 0), "int8": (1, 4), "fp8": (1, 4), "f32": (4, 0)}
"""Ways of keeping keys and values: bytes of an element, and of the scale beside each key and value of a head."""


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary position embedding over the first `dim` components of each head.

    Component pair i turns by `position * inv_freq[i]` radians; every context-extension scheme (linear, Llama 3, YaRN)
    is already folded into `inv_freq` (length dim/2), and YaRN's attention factor into `scale` (multiplies cos and sin).
    `interleaved` pairs components (2i, 2i+1), as GGUF stores Llama weights; otherwise (i, i + dim/2).
    Source: Su et al., RoFormer, arXiv 2104.09864.
    """

    dim: int
    inv_freq: tuple[float, ...]
    interleaved: bool = False
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class Embed:
    """out[t] = weight[token[t]] * scale; weight is [vocab, hidden]."""

    out: str
    weight: str
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class Norm:
    """out = x normalised over its whole width, times weight, plus bias. Mean is subtracted only by kind "layer"."""

    out: str
    x: str
    weight: str
    eps: float
    kind: Literal["rms", "layer"] = "rms"
    bias: str | None = None


@dataclass(frozen=True, slots=True)
class Linear:
    """out = x @ weight.T + bias; weight is [out_features, in_features]."""

    out: str
    x: str
    weight: str
    bias: str | None = None


@dataclass(frozen=True, slots=True)
class Attention:
    """Causal grouped-query attention over the paged KV cache of `layer`.

    q is [T, n_heads * head_dim], k and v are [T, n_kv_heads * head_dim], out is like q. In this order: RMS-norm each
    head of q and k (weights q_norm/k_norm of length head_dim, when given), rotate q and k, append k and v to the cache,
    then softmax(scale * q·k) v over positions p with q_pos - window < p <= q_pos (all p <= q_pos when window is None).
    """

    out: str
    q: str
    k: str
    v: str
    layer: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    scale: float
    rope: Rope | None = None
    window: int | None = None
    q_norm: str | None = None
    k_norm: str | None = None
    norm_eps: float = 1e-6


@dataclass(frozen=True, slots=True)
class Act:
    """out = fn(x), element by element."""

    out: str
    x: str
    fn: Activation


@dataclass(frozen=True, slots=True)
class GatedAct:
    """out = fn(gate) * up, element by element."""

    out: str
    gate: str
    up: str
    fn: Activation


@dataclass(frozen=True, slots=True)
class Add:
    """out = a + b."""

    out: str
    a: str
    b: str


@dataclass(frozen=True, slots=True)
class Logits:
    """The vocabulary head over the rows that are asked for: logits = x @ weight.T, [R, vocab]. Always the last op."""

    x: str
    weight: str


Op: TypeAlias = Embed | Norm | Linear | Attention | Act | GatedAct | Add | Logits


@dataclass(frozen=True, slots=True)
class Program:
    """A whole model: its ops in order and the sizes that everything else is derived from."""

    family: str
    vocab_size: int
    hidden_size: int
    n_layers: int
    max_context: int
    ops: tuple[Op, ...]

    def attentions(self) -> Iterator[Attention]:
        """The attention ops, by layer: what the KV cache and the planner need."""
        return (op for op in self.ops if isinstance(op, Attention))

    def weight_names(self) -> list[str]:
        """Every weight the ops name, in order of first use, each once."""
        fields = ("weight", "bias", "q_norm", "k_norm")
        names = (getattr(op, field, None) for op in self.ops for field in fields)
        return list(dict.fromkeys(name for name in names if name))

    def kv_bytes_per_token(self, kv_dtype: str = "f16") -> int:
        """Bytes of KV cache that one token takes over all layers; kv_dtype is one of `KV_BYTES`."""
        element, vector = KV_BYTES[kv_dtype]
        return sum(2 * op.n_kv_heads * (op.head_dim * element + vector) for op in self.attentions())
