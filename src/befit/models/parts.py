"""The pieces that families are put together from: checked weights, and the ops that most blocks share.

Value names are few and reused: h is the residual stream, n the normalised input of a block, q k v the projections,
a what goes into a block's last Linear (attention or activated MLP), g u the MLP's gate and up, o a block's output.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from befit.errors import UnsupportedModel
from befit.models.config import ModelConfig
from befit.models.program import Activation, Add, Attention, Embed, GatedAct, Linear, Logits, Norm, Op, Rope

Need: TypeAlias = Literal["required", "optional"]
ReadVector: TypeAlias = Callable[[str], npt.NDArray[Any]]
"""Reads a small one-dimensional tensor by name, as floats."""


@dataclass(slots=True)
class Weights:
    """The shapes of a file's tensors, checked as a description names them."""

    shapes: Mapping[str, tuple[int, ...]]
    used: set[str] = field(default_factory=set)

    def require(self, name: str, shape: tuple[int, ...]) -> str:
        """The name, after checking that the file has it in this shape."""
        found = self.shapes.get(name)
        if found is None:
            raise UnsupportedModel(f"the file has no tensor {name}, expected {_text(shape)}.")
        if tuple(found) != shape:
            raise UnsupportedModel(f"tensor {name} is {_text(found)}, expected {_text(shape)}.")
        self.used.add(name)
        return name

    def optional(self, name: str, shape: tuple[int, ...]) -> str | None:
        """Like `require`, but None when the file does not have it."""
        return self.require(name, shape) if name in self.shapes else None

    def refuse_unused(self, arch: str) -> None:
        """Raise when the file holds tensors that the description does not use: it would compute something else."""
        unused = sorted(set(self.shapes) - self.used)
        if unused:
            more = f" and {len(unused) - 3} more" if len(unused) > 3 else ""
            raise UnsupportedModel(
                f"the file has tensors that befit's {arch} does not use: {', '.join(unused[:3])}{more}; "
                "running without them would give wrong output."
            )


def _text(shape: tuple[int, ...]) -> str:
    return f"[{', '.join(str(int(n)) for n in shape)}]"


@dataclass(frozen=True, slots=True)
class Parts:
    """Makes the ops of one model.

    qkv_bias and bias say whether the q, k and v projections, and the other Linears, must have biases; where they are
    optional, a bias is used when the file has one. A LayerNorm always has one, an RMSNorm never.
    """

    config: ModelConfig
    weights: Weights
    read_vector: ReadVector | None = None
    norm_kind: Literal["rms", "layer"] = "rms"
    qkv_bias: Need = "optional"
    bias: Need = "optional"

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding."""
        shape = self.weights.shapes.get("token_embd.weight", ())
        if len(shape) != 2:
            raise UnsupportedModel(
                f"tensor token_embd.weight is {_text(shape)}, expected [vocabulary, {self.config.hidden_size}]."
            )
        return int(shape[0])

    def vector(self, name: str, length: int) -> npt.NDArray[np.float64] | None:
        """The values of a small tensor that shapes the program itself, or None when the file does not have it."""
        if self.weights.optional(name, (length,)) is None:
            return None
        if self.read_vector is None:
            raise ValueError(f"the program depends on the values of {name}; pass read_vector to describe()")
        values = np.asarray(self.read_vector(name), dtype=np.float64)
        if values.shape != (length,) or not np.isfinite(values).all() or (values <= 0).any():
            raise UnsupportedModel(f"tensor {name} must hold {length} finite numbers above 0.")
        return values

    def embed(self, scale: float = 1.0) -> Embed:
        """h = the tokens' rows of `token_embd.weight`, times scale."""
        return Embed("h", self.weights.require("token_embd.weight", (self.vocab_size, self.config.hidden_size)), scale)

    def norm(self, name: str, *, out: str = "n", x: str = "h") -> Norm:
        """The family's kind of norm with the weight (and bias) `name`."""
        shape = (self.config.hidden_size,)
        weight = self.weights.require(f"{name}.weight", shape)
        bias = self.weights.require(f"{name}.bias", shape) if self.norm_kind == "layer" else None
        return Norm(out, x, weight, self.config.norm_eps, self.norm_kind, bias)

    def linear(self, out: str, x: str, name: str, n_out: int, n_in: int, *, bias: Need | None = None) -> Linear:
        """x [T, n_in] to out [T, n_out] by `name.weight`, and `name.bias` where there is one."""
        weight = self.weights.require(f"{name}.weight", (n_out, n_in))
        find = self.weights.require if (bias or self.bias) == "required" else self.weights.optional
        return Linear(out, x, weight, find(f"{name}.bias", (n_out,)))

    def attention(
        self, layer: int, rope: Rope, *, scale: float | None = None, qk_norm: bool = False, post_norm: str | None = None
    ) -> list[Op]:
        """h += post_norm(attention(norm(h))). The config's attention_scale wins over `scale`, then 1/sqrt(head_dim)."""
        c, w, blk = self.config, self.weights, f"blk.{layer}"
        q_width, kv_width = c.n_heads[layer] * c.head_dim, c.n_kv_heads[layer] * c.head_dim
        ops: list[Op] = [
            self.norm(f"{blk}.attn_norm"),
            self.linear("q", "n", f"{blk}.attn_q", q_width, c.hidden_size, bias=self.qkv_bias),
            self.linear("k", "n", f"{blk}.attn_k", kv_width, c.hidden_size, bias=self.qkv_bias),
            self.linear("v", "n", f"{blk}.attn_v", kv_width, c.hidden_size, bias=self.qkv_bias),
            Attention(
                "a",
                "q",
                "k",
                "v",
                layer=layer,
                n_heads=c.n_heads[layer],
                n_kv_heads=c.n_kv_heads[layer],
                head_dim=c.head_dim,
                scale=c.attention_scale or scale or c.head_dim**-0.5,
                rope=rope,
                window=c.windows[layer],
                q_norm=w.require(f"{blk}.attn_q_norm.weight", (c.head_dim,)) if qk_norm else None,
                k_norm=w.require(f"{blk}.attn_k_norm.weight", (c.head_dim,)) if qk_norm else None,
                norm_eps=c.norm_eps,
            ),
            self.linear("o", "a", f"{blk}.attn_output", c.hidden_size, q_width),
        ]
        if post_norm:
            ops.append(self.norm(f"{blk}.{post_norm}", out="o", x="o"))
        return [*ops, Add("h", "h", "o")]

    def gated_mlp(self, layer: int, fn: Activation, *, post_norm: str | None = None) -> list[Op]:
        """h += post_norm(down(fn(gate(norm(h))) * up(norm(h))))."""
        c, blk = self.config, f"blk.{layer}"
        hidden, width = c.hidden_size, c.ffn_size[layer]
        ops: list[Op] = [
            self.norm(f"{blk}.ffn_norm"),
            self.linear("g", "n", f"{blk}.ffn_gate", width, hidden),
            self.linear("u", "n", f"{blk}.ffn_up", width, hidden),
            GatedAct("a", "g", "u", fn),
            self.linear("o", "a", f"{blk}.ffn_down", hidden, width),
        ]
        if post_norm:
            ops.append(self.norm(f"{blk}.{post_norm}", out="o", x="o"))
        return [*ops, Add("h", "h", "o")]

    def head(self) -> list[Op]:
        """The last norm, and the head: `output.weight`, or the embedding when the file has none (a tied head)."""
        shape = (self.vocab_size, self.config.hidden_size)
        weight = self.weights.optional("output.weight", shape) or "token_embd.weight"
        return [self.norm("output_norm"), Logits("n", weight)]
