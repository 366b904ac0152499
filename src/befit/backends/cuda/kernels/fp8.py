"""Products with matrices of e4m3, decoded in registers; activations stay as they are.

Cards without instructions for e4m3 get the bits: as the float16 of the same bits they are 2^-8 of their value.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from befit.backends.cuda.fp8 import Fp8Matrix


@triton.jit
def _decoded(x, BITS: tl.constexpr):
    """e4m3 as float32."""
    if BITS:
        wide = x.to(tl.int16)
        y = (((wide & 0x80) << 8) | ((wide & 0x7F) << 7)).to(tl.float16, bitcast=True).to(tl.float32) * 256.0
    else:
        y = x.to(tl.float32)
    return y


@triton.jit
def _vector_fp8(
    x_ptr, weight_ptr, scale_ptr, bias_ptr, out_ptr, n_rows, cols, scales, TALL: tl.constexpr, WIDE: tl.constexpr,
    BITS: tl.constexpr, BIAS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """One program BLOCK_N outputs of one token. WIDE 0: a scale a row."""
    token = tl.program_id(1).to(tl.int64)
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    row = n.to(tl.int64)
    acc = tl.zeros([BLOCK_N, BLOCK_K], tl.float32)
    for start in range(0, cols, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        inside = (n < n_rows)[:, None] & (k < cols)[None, :]
        w = _decoded(tl.load(weight_ptr + row[:, None] * cols + k[None, :], inside, 0.0), BITS)
        if WIDE > 0:
            w = w * tl.load(scale_ptr + (row // TALL)[:, None] * scales + (k // WIDE)[None, :], inside, 0.0)
        acc += w * tl.load(x_ptr + token * cols + k, k < cols, 0.0).to(tl.float32)[None, :]
    out = tl.sum(acc, axis=1)
    if WIDE == 0:
        out = out * tl.load(scale_ptr + n, n < n_rows, 0.0)
    if BIAS:
        out += tl.load(bias_ptr + n, n < n_rows, 0.0)
    tl.store(out_ptr + token * n_rows + n, out.to(out_ptr.dtype.element_ty), n < n_rows)


@triton.jit
def _tile_fp8(
    x_ptr, weight_ptr, scale_ptr, bias_ptr, out_ptr, n_tokens, n_rows, cols, scales,
    TALL: tl.constexpr, WIDE: tl.constexpr, BITS: tl.constexpr, BIAS: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """One program BLOCK_N outputs of BLOCK_M tokens. x's type holds e4m3 exactly, and rounds what has block scales."""
    m = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    token = m.to(tl.int64)
    row = n.to(tl.int64)
    acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for start in range(0, cols, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        inside = (n < n_rows)[None, :] & (k < cols)[:, None]
        w = _decoded(tl.load(weight_ptr + row[None, :] * cols + k[:, None], inside, 0.0), BITS)
        if WIDE > 0:
            w = w * tl.load(scale_ptr + (row // TALL)[None, :] * scales + (k // WIDE)[:, None], inside, 0.0)
        there = (m < n_tokens)[:, None] & (k < cols)[None, :]
        x = tl.load(x_ptr + token[:, None] * cols + k[None, :], there, 0.0)
        acc += tl.dot(x, w.to(x.dtype), input_precision="ieee")
    if WIDE == 0:
        acc = acc * tl.load(scale_ptr + n, n < n_rows, 0.0)[None, :]
    if BIAS:
        acc += tl.load(bias_ptr + n, n < n_rows, 0.0)[None, :]
    place = token[:, None] * n_rows + n[None, :]
    tl.store(out_ptr + place, acc.to(out_ptr.dtype.element_ty), (m < n_tokens)[:, None] & (n < n_rows)[None, :])


def linear(
    x: torch.Tensor, weight: Fp8Matrix, bias: torch.Tensor | None, *, converts: bool, vector: bool
) -> torch.Tensor:
    """x [T, in] times the matrix transposed, plus bias (float32). converts: the card has instructions for e4m3. vector:
    reads the matrix once a token, no tiles."""
    x = x.contiguous()
    n_tokens, (n_rows, cols) = len(x), weight.shape
    out = torch.empty((n_tokens, n_rows), dtype=x.dtype, device=x.device)
    values = weight.bits.view(torch.float8_e4m3fn) if converts else weight.bits
    arguments = (x, values, weight.scale, weight.scale if bias is None else bias, out)
    facts = {
        "TALL": weight.tall,
        "WIDE": 0 if weight.by_row else weight.wide,
        "BITS": not converts,
        "BIAS": bias is not None,
    }
    scales = weight.scale.shape[1]
    if vector:
        grid = (triton.cdiv(n_rows, 8), n_tokens)
        _vector_fp8[grid](*arguments, n_rows, cols, scales, **facts, BLOCK_N=8, BLOCK_K=512)
    else:
        block_m = min(64, max(16, triton.next_power_of_2(n_tokens)))
        grid = (triton.cdiv(n_rows, 64), triton.cdiv(n_tokens, block_m))
        _tile_fp8[grid](*arguments, n_tokens, n_rows, cols, scales, **facts, BLOCK_M=block_m, BLOCK_N=64, BLOCK_K=64)
    return out
