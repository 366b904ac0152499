"""Writes the fixtures of this folder with the reference implementations of each format.

Each is a safetensors file with the tensors of one module `m` as a checkpoint holds them, `expected`, its weights as the
reference implementation decodes them (float32), and under `settings` in the header's metadata what config.json would
say. Needs torch, autoawq, gptqmodel, compressed-tensors and bitsandbytes, which befit and its tests do not:

    python tests/weights/packed/generate.py
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import save_file

HERE = Path(__file__).parent
ROWS, COLUMNS = 32, 128


def save(name: str, settings: dict[str, Any], tensors: dict[str, Any], expected: torch.Tensor) -> None:
    """One fixture."""
    stored = {f"m.{key}": value.contiguous() for key, value in tensors.items() if value is not None}
    stored["expected"] = expected.detach().float().contiguous()
    save_file(stored, HERE / f"{name}.safetensors", metadata={"settings": json.dumps(settings)})
    print(name, {key: (str(value.dtype), list(value.shape)) for key, value in stored.items()})


def weights(seed: int) -> torch.Tensor:
    """Random weights, a few of them large."""
    torch.manual_seed(seed)
    values = torch.randn(ROWS, COLUMNS) * 0.05
    values[::7, ::11] *= 4
    return values


def affine(values: torch.Tensor, bits: int, group: int, symmetric: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Scales (float16) and zeros, [groups, rows]."""
    grouped = values.reshape(ROWS, -1, group)
    top = (1 << bits) - 1
    if symmetric:
        scale = grouped.abs().amax(2) * 2 / top
        zero = torch.full_like(scale, (top + 1) // 2)
    else:
        low, high = grouped.amin(2).clamp(max=0), grouped.amax(2).clamp(min=0)
        scale = (high - low) / top
        zero = (-low / scale).round().clamp(0, top)
    return scale.half().T.contiguous(), zero.T.contiguous()


def awq(name: str, group: int) -> None:
    from awq.modules.linear.gemm import WQLinear_GEMM
    from awq.utils.packing_utils import dequantize_gemm

    linear = torch.nn.Linear(COLUMNS, ROWS, bias=False)
    linear.weight.data = weights(1)
    scale, zero = affine(linear.weight.data, 4, group, False)
    lower, upper = (linear.weight.data.reshape(ROWS, -1, group) / scale.T[:, :, None].float()).aminmax()
    assert lower > -16
    assert upper < 16
    q = (linear.weight.data.reshape(ROWS, -1, group) / scale.T[:, :, None].float() + zero.T[:, :, None]).round()
    clamped = (q.clamp(0, 15) - zero.T[:, :, None]) * scale.T[:, :, None].float()
    linear.weight.data = clamped.reshape(ROWS, COLUMNS)
    made = WQLinear_GEMM.from_linear(linear, 4, group, scales=scale, zeros=zero)
    decoded = dequantize_gemm(made.qweight, made.qzeros, made.scales.float(), 4, group)
    settings = {"quant_method": "awq", "bits": 4, "group_size": group, "zero_point": True, "version": "gemm"}
    save(name, settings, {k: getattr(made, k) for k in ("qweight", "qzeros", "scales")}, decoded.T)


def gptq(name: str, bits: int, group: int, *, symmetric: bool, act_order: bool = False, version: int = 1) -> None:
    from gptqmodel.nn_modules.qlinear.torch import TorchLinear
    from gptqmodel.utils.model import convert_gptq_v2_to_v1_format_module

    linear = torch.nn.Linear(COLUMNS, ROWS, bias=False)
    linear.weight.data = weights(2)
    order = torch.arange(COLUMNS) // group
    if act_order:
        order = order[torch.randperm(COLUMNS)]
    sorted_columns = torch.argsort(order, stable=True)
    scale, zero = affine(linear.weight.data[:, sorted_columns], bits, group, symmetric)
    top = (1 << bits) - 1
    q = (linear.weight.data / scale.T[:, order].float() + zero.T[:, order]).round().clamp(0, top)
    linear.weight.data = (q - zero.T[:, order]) * scale.T[:, order].float()
    layer = TorchLinear(
        bits=bits,
        group_size=group,
        sym=symmetric,
        desc_act=act_order,
        in_features=COLUMNS,
        out_features=ROWS,
        bias=False,
    )
    layer.pack_block(linear, scale.T.contiguous(), zero.T.contiguous(), g_idx=order.int())
    layer.optimized = True
    layer.post_init()
    layer.scales = layer.scales.float()
    decoded = layer.dequantize_weight().T.clone()
    layer.scales = layer.scales.half()
    if version == 1:
        convert_gptq_v2_to_v1_format_module(layer, SimpleNamespace(bits=bits, pack_dtype=torch.int32))
    layout = "gptq" if version == 1 else "gptq_v2"
    settings = {"quant_method": "gptq", "bits": bits, "group_size": group, "desc_act": act_order, "sym": symmetric}
    names = ("qweight", "qzeros", "scales", "g_idx")
    save(name, {**settings, "checkpoint_format": layout}, {k: getattr(layer, k) for k in names}, decoded)


def compressed(name: str, form: str, bits: int, group: int | None, *, symmetric: bool, dtype: torch.dtype) -> None:
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    values = weights(3)
    floating = form == "float-quantized"
    strategy = "channel" if group is None else "group"
    args = QuantizationArgs(
        num_bits=bits,
        type="float" if floating else "int",
        strategy=strategy,
        group_size=group,
        symmetric=symmetric,
    )
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    grouped = values.reshape(ROWS, -1, group or COLUMNS)
    top = 448.0 if floating else (1 << (bits - 1)) - 1
    zero = None
    if symmetric:
        scale = (grouped.abs().amax(2) / top).to(dtype)
    else:
        low, high = grouped.amin(2), grouped.amax(2)
        scale = ((high - low) / ((1 << bits) - 1)).to(dtype)
        zero = (-(1 << (bits - 1)) - low / scale.float()).round().clamp(-(1 << (bits - 1)), top).to(torch.int8)
    state = {"weight": values.to(dtype), "weight_scale": scale}
    if zero is not None:
        state["weight_zero_point"] = zero
    compressor = BaseCompressor.get_value_from_registry(form)
    stored = compressor.compress(state, scheme)
    exact = {k: v.float() if k == "weight_scale" else v for k, v in stored.items()}
    decoded = compressor.decompress(dict(exact), scheme)["weight"]
    group_settings = {"targets": ["Linear"], "weights": json.loads(args.model_dump_json())}
    settings = {"quant_method": "compressed-tensors", "format": form, "config_groups": {"group_0": group_settings}}
    save(name, settings, stored, decoded)


def fp8(name: str, block: tuple[int, int] | None) -> None:
    values = weights(4)
    tall, wide = block or (ROWS, COLUMNS)
    blocks = values.reshape(ROWS // tall, tall, COLUMNS // wide, wide)
    scale = blocks.abs().amax((1, 3)) / 448
    spread = scale.repeat_interleave(tall, 0).repeat_interleave(wide, 1)
    weight = (values / spread).to(torch.float8_e4m3fn)
    settings: dict[str, Any] = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic"}
    if block:
        settings["weight_block_size"] = list(block)
    save(
        name, settings, {"weight": weight, "weight_scale_inv": scale if block else scale[0, 0]}, weight.float() * spread
    )


def four_bits(name: str, kind: str, nested: bool) -> None:
    import bitsandbytes.functional as functional

    values = weights(5)
    packed, state = functional.quantize_4bit(values, blocksize=64, compress_statistics=nested, quant_type=kind)
    decoded = functional.dequantize_4bit(packed, state)
    tensors = {"weight": packed, **{f"weight.{key}": value for key, value in state.as_dict(packed=True).items()}}
    save(name, {"quant_method": "bitsandbytes", "load_in_4bit": True}, tensors, decoded)


def eight_bits(name: str) -> None:
    import bitsandbytes.functional as functional

    values = weights(6)
    q, scale, _ = functional.int8_vectorwise_quant(values.half())
    decoded = functional.int8_vectorwise_dequant(q, scale)
    tensors = {"weight": q, "SCB": scale, "weight_format": torch.tensor(0, dtype=torch.uint8)}
    save(name, {"quant_method": "bitsandbytes", "load_in_8bit": True}, tensors, decoded)


if __name__ == "__main__":
    awq("awq-g64", 64)
    awq("awq-g32", 32)
    gptq("gptq-4-sym", 4, 64, symmetric=True)
    gptq("gptq-4", 4, 32, symmetric=False)
    gptq("gptq-4-v2", 4, 64, symmetric=False, version=2)
    gptq("gptq-4-act-order", 4, 32, symmetric=False, act_order=True)
    gptq("gptq-2", 2, 32, symmetric=False)
    gptq("gptq-3", 3, 64, symmetric=False)
    gptq("gptq-8-sym", 8, 128, symmetric=True)
    gptq("gptq-8", 8, 32, symmetric=False)
    compressed("ct-4-sym", "pack-quantized", 4, 64, symmetric=True, dtype=torch.bfloat16)
    compressed("ct-4-sym-f16", "pack-quantized", 4, 64, symmetric=True, dtype=torch.float16)
    compressed("ct-4", "pack-quantized", 4, 32, symmetric=False, dtype=torch.bfloat16)
    compressed("ct-3", "pack-quantized", 3, 64, symmetric=False, dtype=torch.float16)
    compressed("ct-8", "pack-quantized", 8, 64, symmetric=True, dtype=torch.bfloat16)
    compressed("ct-int8", "int-quantized", 8, None, symmetric=True, dtype=torch.bfloat16)
    compressed("ct-int8-zero", "int-quantized", 8, None, symmetric=False, dtype=torch.bfloat16)
    compressed("ct-fp8", "float-quantized", 8, None, symmetric=True, dtype=torch.bfloat16)
    fp8("fp8", None)
    fp8("fp8-blocks", (16, 64))
    four_bits("bnb-nf4", "nf4", False)
    four_bits("bnb-nf4-nested", "nf4", True)
    four_bits("bnb-fp4", "fp4", False)
    eight_bits("bnb-int8")
