"""Products with quantised matrices, dequantised in registers from the planes of `cuda/planes.py`.

Columns are taken in pairs: a product is the sum over even columns plus the sum over odd ones, so that a byte with two
4-bit numbers is read once and nothing has to be interleaved.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from befit.backends.cuda.weights import QuantMatrix


@triton.jit
def _pairs(
    low_ptr, high_ptr, scale_ptr, offset_ptr, sub_scale_ptr, sub_offset_ptr, row, pair, inside, cols,
    BITS: tl.constexpr, GROUP: tl.constexpr, UNIT: tl.constexpr, ZERO: tl.constexpr, OFFSET: tl.constexpr,
    SUB_SCALE: tl.constexpr, SUB_OFFSET: tl.constexpr,
):  # fmt: skip
    """Weights of columns 2 * pair and 2 * pair + 1 as float32; row (int64), pair and inside are broadcast."""
    if BITS == 8:
        even = tl.load(low_ptr + row * cols + 2 * pair, inside, 0).to(tl.int32)
        odd = tl.load(low_ptr + row * cols + 2 * pair + 1, inside, 0).to(tl.int32)
    else:
        both = tl.load(low_ptr + row * (cols // 2) + pair, inside, 0).to(tl.int32)
        even = both & 15
        odd = both >> 4
    if BITS == 5:
        top = tl.load(high_ptr + row * (cols // 8) + pair // 4, inside, 0).to(tl.int32) >> (pair % 4 * 2)
        even = even | ((top & 1) << 4)
        odd = odd | (((top >> 1) & 1) << 4)
    if BITS == 6:
        top = tl.load(high_ptr + row * (cols // 4) + pair // 2, inside, 0).to(tl.int32) >> (pair % 2 * 4)
        even = even | ((top & 3) << 4)
        odd = odd | (((top >> 2) & 3) << 4)
    unit = row * (cols // UNIT) + 2 * pair // UNIT
    group = row * (cols // GROUP) + 2 * pair // GROUP
    scale = tl.load(scale_ptr + unit, inside, 0.0).to(tl.float32)
    s = scale
    if SUB_SCALE:
        s = s * tl.load(sub_scale_ptr + group, inside, 0).to(tl.float32)
    if OFFSET:
        m = tl.load(offset_ptr + unit, inside, 0.0).to(tl.float32)
    elif SUB_OFFSET:
        m = scale
    else:
        m = s * ZERO
    if SUB_OFFSET:
        m = m * tl.load(sub_offset_ptr + group, inside, 0).to(tl.float32)
    return even.to(tl.float32) * s - m, odd.to(tl.float32) * s - m


@triton.jit
def _vector(
    x_ptr, low_ptr, high_ptr, scale_ptr, offset_ptr, sub_scale_ptr, sub_offset_ptr, bias_ptr, out_ptr, n_rows, cols,
    BITS: tl.constexpr, GROUP: tl.constexpr, UNIT: tl.constexpr, ZERO: tl.constexpr, OFFSET: tl.constexpr,
    SUB_SCALE: tl.constexpr, SUB_OFFSET: tl.constexpr, BIAS: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """One program BLOCK_N outputs of one token."""
    token = tl.program_id(1).to(tl.int64)
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    row = n[:, None].to(tl.int64)
    acc = tl.zeros([BLOCK_N, BLOCK_P], tl.float32)
    for start in range(0, cols // 2, BLOCK_P):
        pair = start + tl.arange(0, BLOCK_P)
        there = pair < cols // 2
        even, odd = _pairs(
            low_ptr, high_ptr, scale_ptr, offset_ptr, sub_scale_ptr, sub_offset_ptr, row, pair[None, :],
            (n < n_rows)[:, None] & there[None, :], cols,
            BITS, GROUP, UNIT, ZERO, OFFSET, SUB_SCALE, SUB_OFFSET,
        )  # fmt: skip
        x_even = tl.load(x_ptr + token * cols + 2 * pair, there, 0.0).to(tl.float32)
        x_odd = tl.load(x_ptr + token * cols + 2 * pair + 1, there, 0.0).to(tl.float32)
        acc += even * x_even[None, :] + odd * x_odd[None, :]
    out = tl.sum(acc, axis=1)
    if BIAS:
        out += tl.load(bias_ptr + n, n < n_rows, 0.0)
    tl.store(out_ptr + token * n_rows + n, out.to(out_ptr.dtype.element_ty), n < n_rows)


@triton.jit
def _tile(
    x_ptr, low_ptr, high_ptr, scale_ptr, offset_ptr, sub_scale_ptr, sub_offset_ptr, bias_ptr, out_ptr, n_tokens,
    n_rows, cols,
    BITS: tl.constexpr, GROUP: tl.constexpr, UNIT: tl.constexpr, ZERO: tl.constexpr, OFFSET: tl.constexpr,
    SUB_SCALE: tl.constexpr, SUB_OFFSET: tl.constexpr, BIAS: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """One program BLOCK_N outputs of BLOCK_M tokens. Weights are rounded to x's type for the matrix units."""
    m = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    token = m[:, None].to(tl.int64)
    row = n[None, :].to(tl.int64)
    acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for start in range(0, cols // 2, BLOCK_P):
        pair = start + tl.arange(0, BLOCK_P)
        there = pair < cols // 2
        even, odd = _pairs(
            low_ptr, high_ptr, scale_ptr, offset_ptr, sub_scale_ptr, sub_offset_ptr, row, pair[:, None],
            (n < n_rows)[None, :] & there[:, None], cols,
            BITS, GROUP, UNIT, ZERO, OFFSET, SUB_SCALE, SUB_OFFSET,
        )  # fmt: skip
        inside = (m < n_tokens)[:, None] & there[None, :]
        x_even = tl.load(x_ptr + token * cols + 2 * pair[None, :], inside, 0.0)
        x_odd = tl.load(x_ptr + token * cols + 2 * pair[None, :] + 1, inside, 0.0)
        acc += tl.dot(x_even, even.to(x_even.dtype), input_precision="ieee")
        acc += tl.dot(x_odd, odd.to(x_odd.dtype), input_precision="ieee")
    if BIAS:
        acc += tl.load(bias_ptr + n, n < n_rows, 0.0)[None, :]
    place = token * n_rows + n[None, :]
    tl.store(out_ptr + place, acc.to(out_ptr.dtype.element_ty), (m < n_tokens)[:, None] & (n < n_rows)[None, :])


def linear(x: torch.Tensor, weight: QuantMatrix, bias: torch.Tensor | None, *, vector: bool) -> torch.Tensor:
    """x [T, in] times the matrix transposed, plus bias (float32). vector: reads the matrix once a token, no tiles."""
    x = x.contiguous()
    n_tokens, (n_rows, cols) = len(x), weight.shape
    out = torch.empty((n_tokens, n_rows), dtype=x.dtype, device=x.device)

    def given(part: torch.Tensor | None) -> torch.Tensor:
        return weight.low if part is None else part  # a pointer that is not followed

    arguments = (
        x, weight.low, given(weight.high), weight.scale, given(weight.offset), given(weight.sub_scale),
        given(weight.sub_offset), given(bias), out,
    )  # fmt: skip
    facts = {
        "BITS": weight.bits,
        "GROUP": weight.group,
        "UNIT": weight.unit,
        "ZERO": weight.zero,
        "OFFSET": weight.offset is not None,
        "SUB_SCALE": weight.sub_scale is not None,
        "SUB_OFFSET": weight.sub_offset is not None,
        "BIAS": bias is not None,
    }
    if vector:
        grid = (triton.cdiv(n_rows, 8), n_tokens)
        _vector[grid](*arguments, n_rows, cols, **facts, BLOCK_N=8, BLOCK_P=256)
    else:
        block_m = min(64, max(16, triton.next_power_of_2(n_tokens)))
        grid = (triton.cdiv(n_rows, 64), triton.cdiv(n_tokens, block_m))
        _tile[grid](*arguments, n_tokens, n_rows, cols, **facts, BLOCK_M=block_m, BLOCK_N=64, BLOCK_P=32)
    return out
