"""Any standard transformer from its sizes: a `Program`, and the shapes of its weights.

A plan needs sizes only, so one description covers what families tell apart (positions, norms, activations), and models
that no family of `befit.models` runs. Mixtures of experts have their experts in one three-dimensional weight, as in
GGUF. Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434) caches one compressed vector and one rotary key a
layer for all heads; here that is a single head of half as many components, since each is kept as key and as value.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from befit.models.program import Act, Add, Attention, Embed, GatedAct, Linear, Logits, Norm, Op, Program


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """The sizes of one model.

    head_dim: components of queries and keys; value_dim: of values. windows: an entry a layer, None where it sees
    everything. ffn: width of a dense MLP. Of `experts` a token uses `used_experts`, each `expert_ffn` wide, and besides
    them shared_ffn; the first dense_layers have none. kv_latent, latent_rope, q_latent: widths of latent attention.
    """

    family: str
    hidden: int
    n_layers: int
    vocab: int
    max_context: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    value_dim: int
    ffn: int
    windows: tuple[int | None, ...]
    tied: bool = False
    gated: bool = True
    qkv_bias: bool = False
    bias: bool = False
    layer_norm: bool = False
    qk_norm: bool = False
    positions: int = 0
    experts: int = 0
    used_experts: int = 0
    expert_ffn: int = 0
    shared_ffn: int = 0
    dense_layers: int = 0
    kv_latent: int = 0
    latent_rope: int = 0
    q_latent: int = 0

    def describe(self) -> tuple[Program, dict[str, tuple[int, ...]]]:
        """The ops in order, and the shape (rows first) of every weight."""
        builder = _Builder(self)
        ops = tuple(builder.ops())
        program = Program(self.family, self.vocab, self.hidden, self.n_layers, self.max_context, ops)
        return program, builder.shapes


@dataclass(slots=True)
class _Builder:
    size: Architecture
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def ops(self) -> Iterator[Op]:
        s = self.size
        yield Embed("h", self._weight("token_embd.weight", s.vocab, s.hidden))
        if s.positions:
            self._weight("position_embd.weight", s.positions, s.hidden)
        for layer in range(s.n_layers):
            blk = f"blk.{layer}"
            yield self._norm(f"{blk}.attn_norm")
            yield from self._latent(blk, layer) if s.kv_latent else self._attention(blk, layer)
            yield Add("h", "h", "o")
            yield self._norm(f"{blk}.ffn_norm")
            yield from self._experts(blk) if s.experts and layer >= s.dense_layers else self._mlp(blk, "ffn", s.ffn)
            yield Add("h", "h", "o")
        yield self._norm("output_norm")
        yield Logits("n", "token_embd.weight" if s.tied else self._weight("output.weight", s.vocab, s.hidden))

    def _weight(self, name: str, *shape: int) -> str:
        self.shapes[name] = shape
        return name

    def _linear(self, out: str, x: str, name: str, rows: int, columns: int, *, bias: bool | None = None) -> Linear:
        biased = self.size.bias if bias is None else bias
        weight = self._weight(f"{name}.weight", rows, columns)
        return Linear(out, x, weight, self._weight(f"{name}.bias", rows) if biased else None)

    def _norm(self, name: str, *, out: str = "n", x: str = "h", width: int = 0) -> Norm:
        width = width or self.size.hidden
        layer = self.size.layer_norm
        bias = self._weight(f"{name}.bias", width) if layer else None
        return Norm(out, x, self._weight(f"{name}.weight", width), 1e-5, "layer" if layer else "rms", bias)

    def _attention(self, blk: str, layer: int) -> Iterator[Op]:
        s = self.size
        q_rows, biased = s.n_heads * s.head_dim, s.qkv_bias or s.bias
        yield self._linear("q", "n", f"{blk}.attn_q", q_rows, s.hidden, bias=biased)
        yield self._linear("k", "n", f"{blk}.attn_k", s.n_kv_heads * s.head_dim, s.hidden, bias=biased)
        yield self._linear("v", "n", f"{blk}.attn_v", s.n_kv_heads * s.value_dim, s.hidden, bias=biased)
        yield Attention(
            "a",
            "q",
            "k",
            "v",
            layer,
            s.n_heads,
            s.n_kv_heads,
            (s.head_dim + s.value_dim) // 2,
            s.head_dim**-0.5,
            window=s.windows[layer],
            q_norm=self._weight(f"{blk}.attn_q_norm.weight", s.head_dim) if s.qk_norm else None,
            k_norm=self._weight(f"{blk}.attn_k_norm.weight", s.head_dim) if s.qk_norm else None,
        )
        yield self._linear("o", "a", f"{blk}.attn_output", s.hidden, s.n_heads * s.value_dim)

    def _latent(self, blk: str, layer: int) -> Iterator[Op]:
        s = self.size
        x, width, name = "n", s.hidden, "attn_q"
        if s.q_latent:
            yield self._linear("qa", "n", f"{blk}.attn_q_a", s.q_latent, s.hidden)
            yield self._norm(f"{blk}.attn_q_a_norm", out="qa", x="qa", width=s.q_latent)
            x, width, name = "qa", s.q_latent, "attn_q_b"
        yield self._linear("q", x, f"{blk}.{name}", s.n_heads * s.head_dim, width)
        yield self._linear("k", "n", f"{blk}.attn_kv_a_mqa", s.kv_latent + s.latent_rope, s.hidden)
        yield self._norm(f"{blk}.attn_kv_a_norm", out="v", x="k", width=s.kv_latent)
        self._weight(f"{blk}.attn_kv_b.weight", s.n_heads * (s.head_dim - s.latent_rope + s.value_dim), s.kv_latent)
        cached = (s.kv_latent + s.latent_rope) // 2
        yield Attention("a", "q", "k", "v", layer, s.n_heads, 1, cached, s.head_dim**-0.5, window=s.windows[layer])
        yield self._linear("o", "a", f"{blk}.attn_output", s.hidden, s.n_heads * s.value_dim)

    def _mlp(self, blk: str, prefix: str, width: int, suffix: str = "") -> Iterator[Op]:
        s = self.size
        if s.gated:
            yield self._linear("g", "n", f"{blk}.{prefix}_gate{suffix}", width, s.hidden)
        yield self._linear("u", "n", f"{blk}.{prefix}_up{suffix}", width, s.hidden)
        yield GatedAct("a", "g", "u", "silu") if s.gated else Act("a", "u", "gelu_tanh")
        yield self._linear("o", "a", f"{blk}.{prefix}_down{suffix}", s.hidden, width)

    def _experts(self, blk: str) -> Iterator[Op]:
        s = self.size
        yield self._linear("r", "n", f"{blk}.ffn_gate_inp", s.experts, s.hidden, bias=False)
        if s.gated:
            yield Linear("g", "n", self._weight(f"{blk}.ffn_gate_exps.weight", s.experts, s.expert_ffn, s.hidden))
        yield Linear("u", "n", self._weight(f"{blk}.ffn_up_exps.weight", s.experts, s.expert_ffn, s.hidden))
        yield GatedAct("a", "g", "u", "silu") if s.gated else Act("a", "u", "gelu_tanh")
        yield Linear("o", "a", self._weight(f"{blk}.ffn_down_exps.weight", s.experts, s.hidden, s.expert_ffn))
        if s.shared_ffn:
            yield from self._mlp(blk, "ffn", s.shared_ffn, "_shexp")
