"""Which code computes an op: an ordered list of candidates each, the first that can is taken, and why is printable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from befit.backends.cuda import ops
from befit.backends.cuda.device import Target
from befit.backends.cuda.fp8 import Fp8Matrix, scaled_linear, why_not_scaled
from befit.backends.cuda.kv import LayerKV
from befit.backends.cuda.weights import Matrix, QuantMatrix
from befit.models.program import Activation

GEMV_TOKENS = 4
GEMM_TOKENS = 64
"""Up to so many tokens each kernel for quantised matrices is used; bounds by reasoning, not by measurement."""
WIDEST_HEAD = 256
WIDEST_ROW = 65536


@dataclass(frozen=True, slots=True)
class Candidate:
    """A way to compute something. why_not: what speaks against it, or "" if nothing does. what: it is, in words."""

    name: str
    what: str
    why_not: str = ""


def first(candidates: Sequence[Candidate]) -> Candidate:
    """The one to take; the last of a list has nothing against it."""
    return next(each for each in candidates if not each.why_not)


def explain(op: str, candidates: Sequence[Candidate]) -> list[str]:
    """The list for people: what is taken, and why nothing before it is."""
    taken = first(candidates)
    lines = [f"{op}: {taken.name}, {taken.what}"]
    return lines + [f"  not {each.name}: {each.why_not}" for each in candidates if each.why_not]


def no_kernels(target: Target) -> str:
    """Why no Triton kernel can run on the target, or ""."""
    if target.triton:
        return ""
    return "Triton is not installed" if target.is_cuda else "a CPU runs Triton only as TRITON_INTERPRET=1"


def for_quantised(target: Target, tokens: int) -> list[Candidate]:
    """Products of x [tokens, in] with a quantised matrix."""
    missing = no_kernels(target)
    return [
        Candidate(
            "triton gemv",
            "each matrix row read once a token and dequantised in registers",
            missing or (f"{tokens} tokens, more than {GEMV_TOKENS}" if tokens > GEMV_TOKENS else ""),
        ),
        Candidate(
            "triton gemm",
            "tiles dequantised in registers, multiplied by the matrix units",
            missing or (f"{tokens} tokens, more than {GEMM_TOKENS}" if tokens > GEMM_TOKENS else ""),
        ),
        Candidate("torch", "dequantised in slices, then multiplied by the vendor's library"),
    ]


def for_fp8(target: Target, tokens: int, weight: Fp8Matrix) -> list[Candidate]:
    """Products of x [tokens, in] with a matrix of e4m3. Few tokens wait for memory, and need not be rounded."""
    few = for_quantised(target, tokens)[:2]
    return [
        *few,
        Candidate("scaled_mm", "both sides rounded to e4m3", why_not_scaled(target, weight)),
        Candidate("torch", "dequantised in slices, then multiplied by the vendor's library"),
    ]


def for_attention(target: Target, head_dim: int) -> list[Candidate]:
    """Attention of one query a sequence."""
    wide = f"heads of {head_dim}, wider than {WIDEST_HEAD}" if head_dim > WIDEST_HEAD else ""
    return [
        Candidate(
            "triton paged", "pages read in place, long contexts split between blocks", no_kernels(target) or wide
        ),
        Candidate("torch", "pages gathered, then plain products"),
    ]


def for_rows(target: Target, width: int) -> list[Candidate]:
    """Residual sum and norm."""
    wide = f"rows of {width}, wider than {WIDEST_ROW}" if width > WIDEST_ROW else ""
    return [
        Candidate("triton", "sum and norm in one pass", no_kernels(target) or wide),
        Candidate("torch", "one after the other"),
    ]


def for_gate(target: Target, fn: Activation) -> list[Candidate]:
    """fn(gate) * up."""
    other = "" if fn == "silu" else f"the kernel computes silu, not {fn}"
    return [
        Candidate("triton", "both in one pass", no_kernels(target) or other),
        Candidate("torch", "one after the other"),
    ]


class Choices:
    """The ops that have more than one way, for one target."""

    def __init__(self, target: Target) -> None:
        self.target = target

    def table(self, *, head_dim: int, width: int, fn: Activation) -> list[str]:
        """What is taken for a model of these sizes, and why, for people."""
        target = self.target
        return [
            line
            for op, candidates in (
                ("quantised matrix, 1 token", for_quantised(target, 1)),
                (f"quantised matrix, {GEMM_TOKENS} tokens", for_quantised(target, GEMM_TOKENS)),
                ("quantised matrix, more tokens", for_quantised(target, GEMM_TOKENS + 1)),
                ("attention, decode", for_attention(target, head_dim)),
                ("residual and norm", for_rows(target, width)),
                ("rotation and KV write", for_attention(target, head_dim)),
                ("gated activation", for_gate(target, fn)),
            )
            for line in explain(op, candidates)
        ]

    def linear(self, x: torch.Tensor, weight: Matrix, bias: torch.Tensor | None) -> torch.Tensor:
        """x [T, in] times weight [out, in] transposed, plus bias."""
        if isinstance(weight, Fp8Matrix):
            return self._linear_fp8(x, weight, bias)
        if not isinstance(weight, QuantMatrix):
            return ops.linear(x, weight, bias)
        name = first(for_quantised(self.target, len(x))).name
        if name == "torch":
            return ops.linear(x, weight, bias)
        from befit.backends.cuda.kernels import quantised

        return quantised.linear(x, weight, bias, vector=name == "triton gemv")

    def _linear_fp8(self, x: torch.Tensor, weight: Fp8Matrix, bias: torch.Tensor | None) -> torch.Tensor:
        name = first(for_fp8(self.target, len(x), weight)).name
        if name == "torch":
            return ops.linear(x, weight, bias)
        if name == "scaled_mm":
            return scaled_linear(x, weight, bias)
        from befit.backends.cuda.kernels import fp8

        return fp8.linear(x, weight, bias, converts=self.target.has_fp8, vector=name == "triton gemv")

    def add_norm(
        self, a: torch.Tensor, b: torch.Tensor, weight: torch.Tensor, eps: float, dtype: torch.dtype
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(a + b in float32, its RMS norm in dtype)."""
        if first(for_rows(self.target, a.shape[1])).name == "torch":
            return ops.add_norm(a, b, weight, eps, dtype)
        from befit.backends.cuda.kernels import rows

        return rows.add_norm(a, b, weight, eps, dtype)

    def gated(self, gate: torch.Tensor, up: torch.Tensor, fn: Activation) -> torch.Tensor:
        """fn(gate) * up."""
        if first(for_gate(self.target, fn)).name == "torch":
            return ops.gated(gate, up, fn)
        from befit.backends.cuda.kernels import rows

        return rows.silu_mul(gate, up)

    def rope_and_write(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        turn: tuple[torch.Tensor, torch.Tensor] | None,
        interleaved: bool,
        layer: LayerKV,
        slots: torch.Tensor,
    ) -> torch.Tensor:
        """q rotated; k, rotated, and v put into their slots. q, k, v are [T, heads, d]; turn is (cos, sin)."""
        if first(for_attention(self.target, q.shape[2])).name != "torch":
            from befit.backends.cuda.kernels import rows

            return rows.rope_and_write(q, k, v, turn, interleaved, layer, slots)
        turned = q
        if turn is not None:
            turned = ops.rotate(q.float(), *turn, interleaved).to(q.dtype)
            k = ops.rotate(k.float(), *turn, interleaved)
        layer.k.write(slots, k)
        layer.v.write(slots, v)
        return turned

    def attend_one(
        self,
        q: torch.Tensor,
        layer: LayerKV,
        tables: torch.Tensor,
        context: torch.Tensor,
        scale: float,
        window: int | None,
    ) -> torch.Tensor:
        """Attention of one query a sequence: q [S, n_heads, d]."""
        if first(for_attention(self.target, q.shape[2])).name == "torch":
            return ops.attend_one(q, layer, tables, context, scale, window)
        from befit.backends.cuda.kernels import attention

        return attention.attend_one(q, layer, tables, context, scale, window)
