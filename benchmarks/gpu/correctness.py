"""Is it right? The same random weights in transformers and here, and each kernel beside its dequantised matrix."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import torch
from shapes import SHAPES, program_of

from befit.backends.base import StepBatch
from befit.backends.cuda import ops
from befit.backends.cuda.backend import CudaBackend
from befit.backends.cuda.choices import Choices, first, for_fp8, for_quantised
from befit.backends.cuda.device import Target
from befit.backends.cuda.dummy import dummy_fp8, dummy_matrix
from befit.backends.cuda.fp8 import Fp8Matrix
from befit.backends.cuda.kv import KVPool
from befit.backends.cuda.weights import DTYPES
from befit.weights.tensor import DenseTensor

_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
BOUNDS = {"f32": 1e-3, "bf16": 4e-2, "f16": 1e-2}


def batch_of(tokens: list[int], start: int) -> StepBatch:
    """One sequence's next tokens, all of them rows."""
    n = len(tokens)
    ints = lambda values: np.array(values, np.int32)  # noqa: E731
    pages = -(-(start + n) // 16)
    return StepBatch(
        tokens=ints(tokens),
        positions=ints(range(start, start + n)),
        query_start=ints([0, n]),
        context_len=ints([start + n]),
        block_tables=ints(range(pages)).reshape(1, -1),
        rows=ints(range(n)),
        targets=ints([0] * n),
        samplers=[None] * n,
        logprobs=ints([-1] * n),
    )


def against_transformers(target: Target) -> dict[str, Any]:
    """Relative errors of the logits of 48 tokens, prefilled and decoded, by compute type."""
    if importlib.util.find_spec("transformers") is None:
        return {"skipped": "transformers is not installed"}
    from transformers import Qwen2Config, Qwen2ForCausalLM

    hidden, layers, heads, kv, _, ffn, vocab, tied = SHAPES["tiny"]
    torch.manual_seed(0)
    config = Qwen2Config(
        hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=kv,
        intermediate_size=ffn, vocab_size=vocab, tie_word_embeddings=tied, rms_norm_eps=1e-5,
        max_position_embeddings=8192, rope_theta=10000.0, initializer_range=0.06,
    )  # fmt: skip
    theirs = Qwen2ForCausalLM(config).float().eval()
    tensors = {}
    for name, value in theirs.state_dict().items():
        if name == "lm_head.weight" and tied:
            continue
        parts = name.removeprefix("model.").split(".")
        key = {"embed_tokens.weight": "token_embd.weight", "norm.weight": "output_norm.weight"}.get(".".join(parts), "")
        if parts[0] == "layers":
            key = f"blk.{parts[1]}.{_NAMES['.'.join(parts[2:-1])]}.{parts[-1]}"
        tensors[key] = DenseTensor(key, tuple(value.shape), "f32", value.numpy())
    program, _ = program_of("tiny", "qwen2")
    tokens = [int(t) for t in np.random.default_rng(0).integers(0, vocab, 48)]
    with torch.no_grad():
        exact = theirs(torch.tensor([tokens])).logits[0].numpy()
    out: dict[str, Any] = {}
    for compute in dict.fromkeys(("f32", target.compute)):
        where = Target(target.device, compute, target.capability, target.triton)
        backend = CudaBackend(
            program, tensors, block_size=16, n_blocks=8, max_tokens=64, max_rows=64, kv_dtype="f32", target=where
        )
        parts = [backend.logits(batch_of(tokens[:40], 0))]
        parts += [backend.logits(batch_of([token], 40 + i)) for i, token in enumerate(tokens[40:])]
        error = float(np.linalg.norm(np.concatenate(parts) - exact) / np.linalg.norm(exact))
        out[compute] = {"error": error, "right": error < BOUNDS[compute]}
        backend.close()
    return out


def of_kernels(target: Target) -> dict[str, Any]:
    """Relative errors of products with quantised matrices by format and tokens, and the code that made them."""
    device, dtype = torch.device(target.device), DTYPES[target.compute]
    generator = torch.Generator(device).manual_seed(1)
    choices = Choices(target)
    out: dict[str, Any] = {}
    for form in ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q4_k", "q5_k", "q6_k"):
        weight = dummy_matrix((1000, 1024), form, device, generator)
        for tokens in (1, 3, 16, 64, 100):
            x = torch.randn((tokens, 1024), generator=generator, device=device, dtype=dtype)
            exact = x.double() @ weight.rows(slice(None)).double().T
            got = choices.linear(x, weight, None).double()
            error = float((got - exact).norm() / exact.norm())
            name = first(for_quantised(target, tokens)).name
            out[f"{form} x {tokens}"] = {"code": name, "error": error, "right": error < BOUNDS[target.compute]}
    rows = dummy_fp8((1024, 1024), device, generator)
    blocks = Fp8Matrix(rows.shape, 128, 128, rows.bits, rows.scale[:8].repeat(1, 8))
    for kind, matrix in (("row", rows), ("block", blocks)):
        for tokens in (1, 3, 16, 64, 100):
            x = torch.randn((tokens, 1024), generator=generator, device=device, dtype=dtype)
            exact = x.double() @ matrix.rows(slice(None)).double().T
            error = float((choices.linear(x, matrix, None).double() - exact).norm() / exact.norm())
            name = first(for_fp8(target, tokens, matrix)).name
            right = error < (0.05 if name == "scaled_mm" else BOUNDS[target.compute])
            out[f"fp8, a scale a {kind} x {tokens}"] = {"code": name, "error": error, "right": right}
    return out


def of_kv(target: Target) -> dict[str, Any]:
    """Writing keys and values and attending to them, by kind of KV cache: relative error beside plain torch in float32
    over what the pages hold."""
    device, dtype = torch.device(target.device), DTYPES[target.compute]
    generator = torch.Generator(device).manual_seed(2)
    choices = Choices(target)
    program, _ = program_of("tiny")
    op = next(program.attentions())
    out: dict[str, Any] = {}
    for kind in ("f16", "int8", "fp8"):
        layer = KVPool(program, 64, 16, kind, device, centers={}, target=target).pages[op.layer]
        n, context = 4, 250

        def random(heads: int, tokens: int) -> torch.Tensor:
            return torch.randn((tokens, heads, op.head_dim), generator=generator, device=device, dtype=dtype)

        tables = torch.randperm(64, generator=generator, device=device).to(torch.int32).view(n, 16)
        at = torch.arange(context, device=device)
        for s in range(n):
            slots = (tables[s, at // 16] * 16 + at % 16).to(torch.int32)
            k, v = random(op.n_kv_heads, context), random(op.n_kv_heads, context)
            choices.rope_and_write(random(op.n_heads, context), k, v, None, False, layer, slots)
        q, lengths = random(op.n_heads, n), torch.full((n,), context, dtype=torch.int32, device=device)
        exact = ops.attend_one(q.float(), layer, tables, lengths, op.scale, None)
        got = choices.attend_one(q, layer, tables, lengths, op.scale, None).float()
        error = float((got - exact).norm() / exact.norm())
        held = layer.v.sequence(tables[n - 1], context, torch.float32)
        kept = float((held - v.float()).norm() / v.float().norm())
        right = error < BOUNDS[target.compute] and kept < {"f16": 1e-3, "int8": 0.01, "fp8": 0.04}[kind]
        out[f"attention over {kind}"] = {"error": error, "rounding": kept, "right": right}
    return out


def host_weights(shape: str) -> tuple[Any, dict[str, DenseTensor]]:
    """A program and random float16 weights for it in the computer's memory, one after the other from a small pool."""
    program, shapes = program_of(shape)
    pool = np.random.default_rng(0).standard_normal(1_000_003).astype(np.float16)
    tensors = {}
    for name in program.weight_names():
        size = shapes[name]
        data = np.resize(pool, size) * np.float16(size[-1] ** -0.5) if len(size) == 2 else np.ones(size, np.float16)
        tensors[name] = DenseTensor(name, size, "f16", data)
    return program, tensors


def of_split(target: Target) -> dict[str, Any]:
    """Relative error of logits with one of two layers on the device, the other native, beside both on the device."""
    if importlib.util.find_spec("befit.backends.native._native") is None:
        return {"skipped": "the native backend is not built"}
    from befit import backends

    program, tensors = host_weights("tiny")
    sizes = {"n_blocks": 8, "max_tokens": 64, "max_rows": 64, "threads": 2, "kv_dtype": "f16"}
    tokens = [int(t) for t in np.random.default_rng(0).integers(0, program.vocab_size, 48)]
    logits = []
    for layers in (None, 1):
        backend = backends.create("cuda", program, tensors, card_layers=layers, **sizes)
        parts = [backend.logits(batch_of(tokens[:40], 0))]
        parts += [backend.logits(batch_of([token], 40 + i)) for i, token in enumerate(tokens[40:])]
        logits.append(np.concatenate(parts))
        backend.close()
    error = float(np.linalg.norm(logits[1] - logits[0]) / np.linalg.norm(logits[0]))
    return {"error": error, "right": error < max(0.01, BOUNDS[target.compute])}
