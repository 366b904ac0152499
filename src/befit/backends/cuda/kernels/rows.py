"""Kernels over the rows of a step: residual and norm, gated activation, rotation and writing keys and values."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from befit.backends.cuda import kv
from befit.backends.cuda.kv import LayerKV

KINDS = {"f16": 0, "f32": 0, "int8": 1, "fp8": 2}
"""What a kernel that writes keys and values is told."""
LEAST = tl.constexpr(kv.LEAST)


@triton.jit
def _add_norm(a_ptr, b_ptr, weight_ptr, sum_ptr, out_ptr, width, eps, BLOCK: tl.constexpr):
    """One program a row of `width` <= BLOCK."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < width
    a = tl.load(a_ptr + row * width + column, inside, 0.0).to(tl.float32)
    b = tl.load(b_ptr + row * width + column, inside, 0.0).to(tl.float32)
    total = a + b
    tl.store(sum_ptr + row * width + column, total, inside)
    scale = 1.0 / tl.sqrt(tl.sum(total * total, axis=0) / width + eps)
    weight = tl.load(weight_ptr + column, inside, 0.0)
    tl.store(out_ptr + row * width + column, total * scale * weight, inside)


@triton.jit
def _silu_mul(gate_ptr, up_ptr, out_ptr, n, BLOCK: tl.constexpr):
    """Element by element."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    gate = tl.load(gate_ptr + at, inside, 0.0).to(tl.float32)
    up = tl.load(up_ptr + at, inside, 0.0).to(tl.float32)
    tl.store(out_ptr + at, gate / (1.0 + tl.exp(-gate)) * up, inside)


@triton.jit
def _encode_e4m3(x):
    """Bits of the e4m3 nearest to float32 x, ties to even, |x| < 464: by integers, since some cards cannot convert."""
    bits = x.to(tl.int32, bitcast=True)
    size = bits & 0x7FFFFFFF
    normal = ((size + 0x7FFFF + ((size >> 20) & 1)) >> 20) - (120 << 3)  # the exponent's bias is 7 instead of 127
    small = (tl.abs(x) + 16384.0).to(tl.int32, bitcast=True) & 15  # whose last place is 2^-9, as of subnormals
    return (((bits >> 24) & 0x80) | tl.where(size < (121 << 23), small, normal)).to(tl.uint8)


@triton.jit
def _keep(pages_ptr, scale_ptr, vector, x, i, inside, width, KIND: tl.constexpr):
    """Write float32 x [BLOCK], which is 0 outside, as vector number `vector` of the pages: see cuda/kv.py."""
    if KIND == 0:
        tl.store(pages_ptr + vector * width + i, x.to(pages_ptr.dtype.element_ty), inside)
    else:
        top = 127.0 if KIND == 1 else 448.0
        most = tl.max(tl.abs(x), axis=0)
        y = x * tl.where(most > LEAST, top / tl.maximum(most, LEAST), 0.0)
        if KIND == 2:
            tl.store(pages_ptr + vector * width + i, _encode_e4m3(y), inside)
        else:  # beside 1.5 * 2^23 the last place is 1
            tl.store(pages_ptr + vector * width + i, ((y + 12582912.0) - 12582912.0).to(tl.int8), inside)
        tl.store(scale_ptr + vector, most / top + tl.sum(x * 0.0, axis=0))  # the sum is 0, or NaN


@triton.jit
def _rope_and_write(
    q_ptr, k_ptr, v_ptr, cos_ptr, sin_ptr, out_ptr, k_pages_ptr, v_pages_ptr, k_scale_ptr, v_scale_ptr, center_ptr,
    slot_ptr, n_heads, n_kv, width,
    HALF: tl.constexpr, INTERLEAVED: tl.constexpr, BLOCK: tl.constexpr, KIND: tl.constexpr, CENTER: tl.constexpr,
):  # fmt: skip
    """One program a token and head: first those of q, then of k, then of v. Component i of a head turns with its
    partner j by angle f; those from 2 * HALF on stay as they are. KIND 0 keeps keys and values as floats, 1 as int8, 2
    as the bits of e4m3; CENTER takes from keys what all have in common."""
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    i = tl.arange(0, BLOCK)
    inside = i < width
    if head < n_heads + n_kv:
        if head < n_heads:
            source = q_ptr + (token * n_heads + head) * width
        else:
            source = k_ptr + (token * n_kv + head - n_heads) * width
        x = tl.load(source + i, inside, 0.0).to(tl.float32)
        if HALF > 0:
            turned = i < 2 * HALF
            if INTERLEAVED:
                first = i % 2 == 0
                j = i ^ 1
                f = i // 2
            else:
                first = i < HALF
                j = tl.where(first, i + HALF, i - HALF)
                f = tl.where(first, i, i - HALF)
            y = tl.load(source + j, turned, 0.0).to(tl.float32)
            cos = tl.load(cos_ptr + token * HALF + f, turned, 1.0)
            sin = tl.load(sin_ptr + token * HALF + f, turned, 0.0)
            x = x * cos + tl.where(first, -y, y) * sin
        if head < n_heads:
            tl.store(out_ptr + (token * n_heads + head) * width + i, x.to(out_ptr.dtype.element_ty), inside)
        else:
            vector = tl.load(slot_ptr + token).to(tl.int64) * n_kv + head - n_heads
            if CENTER:
                x = x - tl.load(center_ptr + (head - n_heads) * width + i, inside, 0.0)
            _keep(k_pages_ptr, k_scale_ptr, vector, x, i, inside, width, KIND)
    else:
        kv_head = head - n_heads - n_kv
        v = tl.load(v_ptr + (token * n_kv + kv_head) * width + i, inside, 0.0).to(tl.float32)
        v_vector = tl.load(slot_ptr + token).to(tl.int64) * n_kv + kv_head
        _keep(v_pages_ptr, v_scale_ptr, v_vector, v, i, inside, width, KIND)


def add_norm(
    a: torch.Tensor, b: torch.Tensor, weight: torch.Tensor, eps: float, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """See `ops.add_norm`."""
    n, width = a.shape
    total = torch.empty((n, width), dtype=torch.float32, device=a.device)
    out = torch.empty((n, width), dtype=dtype, device=a.device)
    block = triton.next_power_of_2(width)
    _add_norm[(n,)](a.contiguous(), b.contiguous(), weight, total, out, width, eps, BLOCK=block)
    return total, out


def silu_mul(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """See `ops.gated` with silu."""
    out = torch.empty_like(gate)
    n, block = gate.numel(), 1024
    _silu_mul[(triton.cdiv(n, block),)](gate.contiguous(), up.contiguous(), out, n, BLOCK=block)
    return out


def rope_and_write(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    turn: tuple[torch.Tensor, torch.Tensor] | None,
    interleaved: bool,
    layer: LayerKV,
    slots: torch.Tensor,
) -> torch.Tensor:
    """See `Choices.rope_and_write`."""
    n, n_heads, width = q.shape
    n_kv = k.shape[1]
    q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    out = torch.empty_like(q)
    cos, sin = turn if turn is not None else (q, q)  # not read then
    keys, values = layer.k, layer.v

    def given(part: torch.Tensor | None) -> torch.Tensor:
        return cos if part is None else part  # a pointer that is not followed

    _rope_and_write[(n, n_heads + 2 * n_kv)](
        q, k, v, cos, sin, out, keys.values, values.values, given(keys.scale), given(values.scale), given(keys.center),
        slots, n_heads, n_kv, width,
        HALF=cos.shape[1] if turn is not None else 0,
        INTERLEAVED=interleaved,
        BLOCK=triton.next_power_of_2(width),
        KIND=KINDS[keys.kind],
        CENTER=keys.center is not None,
    )  # fmt: skip
    return out
