"""Kernels over the rows of a step: residual and norm, gated activation, rotation and writing keys and values."""

from __future__ import annotations

import torch
import triton
import triton.language as tl


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
def _rope_and_write(
    q_ptr, k_ptr, v_ptr, cos_ptr, sin_ptr, out_ptr, k_pages_ptr, v_pages_ptr, slot_ptr, n_heads, n_kv, width,
    HALF: tl.constexpr, INTERLEAVED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program a token and head: first those of q, then of k, then of v. Component i of a head turns with its
    partner j by angle f; those from 2 * HALF on stay as they are."""
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    i = tl.arange(0, BLOCK)
    inside = i < width
    if head < n_heads + n_kv:
        if head < n_heads:
            source = q_ptr + (token * n_heads + head) * width
            target = out_ptr + (token * n_heads + head) * width
        else:
            kv_head = head - n_heads
            source = k_ptr + (token * n_kv + kv_head) * width
            target = k_pages_ptr + (tl.load(slot_ptr + token).to(tl.int64) * n_kv + kv_head) * width
        x = tl.load(source + i, inside, 0.0).to(tl.float32)
        if HALF > 0:
            turned = i < 2 * HALF
            if INTERLEAVED:
                j = i ^ 1
                f = i // 2
                first = i % 2 == 0
            else:
                first = i < HALF
                j = tl.where(first, i + HALF, i - HALF)
                f = tl.where(first, i, i - HALF)
            y = tl.load(source + j, turned, 0.0).to(tl.float32)
            cos = tl.load(cos_ptr + token * HALF + f, turned, 1.0)
            sin = tl.load(sin_ptr + token * HALF + f, turned, 0.0)
            x = x * cos + tl.where(first, -y, y) * sin
        if head < n_heads:
            tl.store(target + i, x.to(out_ptr.dtype.element_ty), inside)
        else:
            tl.store(target + i, x.to(k_pages_ptr.dtype.element_ty), inside)
    else:
        kv_head = head - n_heads - n_kv
        v = tl.load(v_ptr + (token * n_kv + kv_head) * width + i, inside, 0.0)
        place = (tl.load(slot_ptr + token).to(tl.int64) * n_kv + kv_head) * width
        tl.store(v_pages_ptr + place + i, v.to(v_pages_ptr.dtype.element_ty), inside)


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
    k_pages: torch.Tensor,
    v_pages: torch.Tensor,
    slots: torch.Tensor,
) -> torch.Tensor:
    """See `Choices.rope_and_write`."""
    n, n_heads, width = q.shape
    n_kv = k.shape[1]
    q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    out = torch.empty_like(q)
    cos, sin = turn if turn is not None else (q, q)  # not read then
    _rope_and_write[(n, n_heads + 2 * n_kv)](
        q, k, v, cos, sin, out, k_pages, v_pages, slots, n_heads, n_kv, width,
        HALF=cos.shape[1] if turn is not None else 0,
        INTERLEAVED=interleaved,
        BLOCK=triton.next_power_of_2(width),
    )  # fmt: skip
    return out
