"""Every op in plain torch: what runs where no kernel of befit's own does, and what the kernels are checked against.

Residual sums and norms are float32; matrices, their products, and what goes between them have the compute dtype.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from befit.backends.cuda.kv import LayerKV
from befit.backends.cuda.size import ATTENTION_BYTES, DEQUANTISED_BYTES
from befit.backends.cuda.weights import Matrix
from befit.models.program import Activation


def embed(weight: Matrix, tokens: torch.Tensor, scale: float) -> torch.Tensor:
    """Rows of the table as float32 [T, hidden], times scale."""
    rows = weight.index_select(0, tokens).float() if isinstance(weight, torch.Tensor) else weight.rows(tokens.long())
    return rows * scale if scale != 1 else rows


def linear(x: torch.Tensor, weight: Matrix, bias: torch.Tensor | None) -> torch.Tensor:
    """x [T, in] times the matrix [out, in] transposed, plus bias; a quantised one is dequantised in slices."""
    if isinstance(weight, torch.Tensor):
        return functional.linear(x, weight, None if bias is None else bias.to(x.dtype))
    n_rows, cols = weight.shape
    step = max(1, DEQUANTISED_BYTES // (4 * cols))
    parts = [
        functional.linear(x, weight.rows(slice(start, start + step)).to(x.dtype)) for start in range(0, n_rows, step)
    ]
    out = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
    return out if bias is None else out + bias.to(x.dtype)


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """As in the reference, in float32."""
    x = x.float()
    return x / torch.sqrt((x * x).mean(dim=-1, keepdim=True) + eps) * weight


def layer_norm(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, eps: float) -> torch.Tensor:
    """As in the reference, in float32."""
    return functional.layer_norm(x.float(), weight.shape, weight, bias, eps)


def activation(x: torch.Tensor, fn: Activation) -> torch.Tensor:
    """silu, or GELU by tanh or by erf, computed in float32."""
    return _act(x.float(), fn).to(x.dtype)


def gated(gate: torch.Tensor, up: torch.Tensor, fn: Activation) -> torch.Tensor:
    """fn(gate) * up."""
    return (_act(gate.float(), fn) * up.float()).to(gate.dtype)


def _act(x: torch.Tensor, fn: Activation) -> torch.Tensor:
    if fn == "silu":
        return functional.silu(x)
    return functional.gelu(x, approximate="tanh" if fn == "gelu_tanh" else "none")


def add_norm(
    a: torch.Tensor, b: torch.Tensor, weight: torch.Tensor, eps: float, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """(a + b in float32, its RMS norm in dtype)."""
    total = a.float() + b.float()
    return total, rms_norm(total, weight, eps).to(dtype)


def angles(positions: torch.Tensor, inv_freq: torch.Tensor, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin, float32 [T, dim / 2], of positions [T] with inv_freq float64 [dim / 2]."""
    turned = positions.double()[:, None] * inv_freq
    return (turned.cos() * scale).float(), (turned.sin() * scale).float()


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, interleaved: bool) -> torch.Tensor:
    """Turn the first 2 * cos.shape[1] components of every head of x [T, heads, d], which is float32."""
    half = cos.shape[1]
    cos, sin = cos[:, None, :], sin[:, None, :]
    turned, rest = x[..., : 2 * half], x[..., 2 * half :]
    if interleaved:
        a, b = turned[..., 0::2], turned[..., 1::2]
        out = torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(-2)
    else:
        a, b = turned[..., :half], turned[..., half:]
        out = torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)
    return out if rest.shape[-1] == 0 else torch.cat((out, rest), dim=-1)


def attend_one(
    q: torch.Tensor,
    layer: LayerKV,
    tables: torch.Tensor,
    context: torch.Tensor,
    scale: float,
    window: int | None,
) -> torch.Tensor:
    """Attention of one query a sequence, the last: q [S, n_heads, d], tables [S, B], context [S]. Returns like q."""
    n_seqs, n_heads, d = q.shape
    size, n_kv = layer.k.values.shape[1:3]
    n = tables.shape[1] * size
    most = max(1, ATTENTION_BYTES // (4 * n * n_kv * d))
    if n_seqs > most:
        parts = zip(q.split(most), tables.split(most), context.split(most), strict=True)
        return torch.cat([attend_one(q, layer, t, c, scale, window) for q, t, c in parts])
    k = layer.k.read(tables.long(), torch.float32).reshape(n_seqs, n, n_kv, d)
    v = layer.v.read(tables.long(), torch.float32).reshape(n_seqs, n, n_kv, d)
    at = torch.arange(n, device=q.device)[None, :]
    seen = at < context[:, None]
    if window is not None:
        seen &= at >= context[:, None] - window
    grouped = q.float().view(n_seqs, n_kv, n_heads // n_kv, d)
    scores = torch.einsum("skgd,snkd->skgn", grouped, k) * scale
    weights = scores.masked_fill(~seen[:, None, None, :], -torch.inf).softmax(dim=-1)
    v = v.masked_fill(~seen[:, :, None, None], 0)  # what lies in unused places may be anything, NaN too
    return torch.einsum("skgn,snkd->skgd", weights, v).reshape(n_seqs, n_heads, d).to(q.dtype)


def attend_many(
    q: torch.Tensor,
    layer: LayerKV,
    table: torch.Tensor,
    positions: torch.Tensor,
    length: int,
    scale: float,
    window: int | None,
) -> torch.Tensor:
    """Causal attention of one sequence's queries: q [T, n_heads, d] at positions [T], table [B]. Returns like q."""
    k = layer.k.sequence(table, length, q.dtype).transpose(0, 1)[None]
    v = layer.v.sequence(table, length, q.dtype).transpose(0, 1)[None]
    group = q.shape[1] // k.shape[1]
    if group > 1:  # written out, since torch's memory-saving kernels do not know groups
        k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
    at = torch.arange(length, device=q.device)[None, :]
    most = max(1, ATTENTION_BYTES // (4 * q.shape[1] * length))
    parts = []
    for some, places in zip(q.split(most), positions.split(most), strict=True):
        seen = at <= places[:, None]
        if window is not None:
            seen &= at > places[:, None] - window
        some = some.transpose(0, 1)[None]
        out = functional.scaled_dot_product_attention(some, k, v, attn_mask=seen[None, None], scale=scale)
        parts.append(out[0].transpose(0, 1))
    return parts[0] if len(parts) == 1 else torch.cat(parts)
