"""Decode attention over pages, for grouped queries, with long contexts split between programs.

A program reads one chunk of one KV head's keys and values once, for all query heads that share it, and leaves its
running maximum, sum and weighted values; a second kernel joins the chunks in rising order (flash-decoding, Dao et al.,
"Flash-Decoding for long-context inference", 2023). The chunk is the same whatever else is in the step.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from befit.backends.cuda.kv import LayerKV
from befit.backends.cuda.size import CHUNK, MOST_CHUNKS


@triton.jit
def _numbers(x, dtype: tl.constexpr, SCALED: tl.constexpr, BITS: tl.constexpr):
    """What the matrix units multiply: whole numbers and e4m3 in q's type, which holds them exactly."""
    y = x
    if BITS:  # as the float16 of the same bits, whose exponent's bias is 15 instead of 7
        wide = x.to(tl.int16)
        y = (((wide & 0x80) << 8) | ((wide & 0x7F) << 7)).to(tl.float16, bitcast=True).to(dtype)
    elif SCALED:
        y = x.to(dtype)
    return y


@triton.jit
def _attend(
    q_ptr, k_ptr, v_ptr, k_scale_ptr, v_scale_ptr, table_ptr, context_ptr, acc_ptr, max_ptr, sum_ptr, scale, window,
    n_heads, n_kv, width, table_width, n_chunks, chunk,
    SCALED: tl.constexpr, BITS: tl.constexpr,
    PAGE: tl.constexpr, GROUP: tl.constexpr, ROWS: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """One program a sequence, KV head and chunk. window 0: none. SCALED: keys and values have a scale each, which goes
    to the scores and to the weights; BITS: they are bits of e4m3, decoded to 2^-8 of what they are."""
    seq = tl.program_id(0).to(tl.int64)
    kv_head = tl.program_id(1)
    part = tl.program_id(2)
    length = tl.load(context_ptr + seq)
    begin = part * chunk
    end = tl.minimum(begin + chunk, length)
    low = begin * 0
    if window > 0:
        low = tl.maximum(length - window, 0)
    row = tl.arange(0, ROWS)
    d = tl.arange(0, BLOCK_D)
    head = kv_head * GROUP + row
    mine = row < GROUP
    inside = d < width
    q = tl.load(q_ptr + (seq * n_heads + head[:, None]) * width + d[None, :], mine[:, None] & inside[None, :], 0.0)
    if not SCALED:
        q = q.to(k_ptr.dtype.element_ty)
    best = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    acc = tl.zeros([ROWS, BLOCK_D], tl.float32)
    start = tl.maximum(begin, low // BLOCK_N * BLOCK_N)
    for at in range(start, end, BLOCK_N):
        position = at + tl.arange(0, BLOCK_N)
        seen = (position < end) & (position >= low)
        page = tl.load(table_ptr + seq * table_width + position // PAGE, seen, 0).to(tl.int64)
        vector = (page * PAGE + position % PAGE) * n_kv + kv_head
        place = vector * width
        there = seen[:, None] & inside[None, :]
        k = _numbers(tl.load(k_ptr + place[:, None] + d[None, :], there, 0.0), q.dtype, SCALED, BITS)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
        if SCALED:
            scores = scores * tl.load(k_scale_ptr + vector, seen, 0.0)[None, :]
            if BITS:
                scores = scores * 256.0
        scores = tl.where(seen[None, :], scores, float("-inf"))
        higher = tl.maximum(best, tl.max(scores, axis=1))
        safe = tl.where(higher == float("-inf"), 0.0, higher)  # nothing seen so far
        p = tl.exp(scores - safe[:, None])
        shrink = tl.exp(best - safe)
        total = total * shrink + tl.sum(p, axis=1)
        v = _numbers(tl.load(v_ptr + place[:, None] + d[None, :], there, 0.0), q.dtype, SCALED, BITS)
        acc = acc * shrink[:, None]
        if SCALED:  # by the largest scale of the block, so that weights keep their size in 16 bits
            v_scale = tl.load(v_scale_ptr + vector, seen, 0.0)
            most = tl.max(v_scale, axis=0)
            p = p * (v_scale / tl.where(most > 0, most, 1.0))[None, :]
            if BITS:
                most = most * 256.0
            acc += tl.dot(p.to(v.dtype), v, input_precision="ieee") * most
        else:
            acc += tl.dot(p.to(v.dtype), v, input_precision="ieee")
        best = higher
    out = (seq * n_heads + head) * n_chunks + part
    tl.store(max_ptr + out, best, mine)
    tl.store(sum_ptr + out, total, mine)
    tl.store(acc_ptr + out[:, None] * width + d[None, :], acc, mine[:, None] & inside[None, :])


@triton.jit
def _join(acc_ptr, max_ptr, sum_ptr, context_ptr, out_ptr, n_heads, width, n_chunks, chunk, BLOCK_D: tl.constexpr):
    """One program a sequence and head."""
    seq = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    d = tl.arange(0, BLOCK_D)
    inside = d < width
    first = (seq * n_heads + head) * n_chunks
    used = tl.cdiv(tl.load(context_ptr + seq), chunk)
    best = tl.load(max_ptr + first)
    total = tl.load(sum_ptr + first)
    acc = tl.load(acc_ptr + first * width + d, inside, 0.0)
    for part in range(1, used):
        other = tl.load(max_ptr + first + part)
        higher = tl.maximum(best, other)
        safe = tl.where(higher == float("-inf"), 0.0, higher)
        ours, theirs = tl.exp(best - safe), tl.exp(other - safe)
        total = total * ours + tl.load(sum_ptr + first + part) * theirs
        acc = acc * ours + tl.load(acc_ptr + (first + part) * width + d, inside, 0.0) * theirs
        best = higher
    tl.store(out_ptr + (seq * n_heads + head) * width + d, (acc / total).to(out_ptr.dtype.element_ty), inside)


def attend_one(
    q: torch.Tensor,
    layer: LayerKV,
    tables: torch.Tensor,
    context: torch.Tensor,
    scale: float,
    window: int | None,
) -> torch.Tensor:
    """See `ops.attend_one`. A page of unused memory may hold anything: it is not read."""
    n_seqs, n_heads, width = q.shape
    page, n_kv = layer.k.values.shape[1:3]
    k, v = layer.k.as_numbers, layer.v.as_numbers
    longest = tables.shape[1] * page
    chunk = CHUNK * max(1, triton.next_power_of_2(triton.cdiv(longest, CHUNK * MOST_CHUNKS)))
    n_chunks = triton.cdiv(longest, chunk)
    group = n_heads // n_kv
    block_d = max(16, triton.next_power_of_2(width))
    acc = torch.empty((n_seqs, n_heads, n_chunks, width), dtype=torch.float32, device=q.device)
    best = torch.empty((n_seqs, n_heads, n_chunks), dtype=torch.float32, device=q.device)
    total = torch.empty_like(best)
    out = torch.empty_like(q)
    _attend[(n_seqs, n_kv, n_chunks)](
        q.contiguous(), k, v, best if layer.k.scale is None else layer.k.scale,
        best if layer.v.scale is None else layer.v.scale, tables, context, acc, best, total, scale, window or 0,
        n_heads, n_kv, width, tables.shape[1], n_chunks, chunk,
        SCALED=layer.k.scale is not None, BITS=k.dtype == torch.uint8,
        PAGE=page, GROUP=group, ROWS=max(16, triton.next_power_of_2(group)), BLOCK_D=block_d, BLOCK_N=64,
    )  # fmt: skip
    _join[(n_seqs, n_heads)](acc, best, total, context, out, n_heads, width, n_chunks, chunk, BLOCK_D=block_d)
    return out
