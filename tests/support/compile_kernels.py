"""python compile_kernels.py CAPABILITY: compile every kernel of the CUDA backend for a card, without having one."""

from __future__ import annotations

import sys

from triton import compile as compile_kernel
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from befit.backends.cuda.kernels import attention, fp8, quantised, rows

PAGES = {"k_pages_ptr": "*fp16", "v_pages_ptr": "*fp16", "k_ptr": "*fp16", "v_ptr": "*fp16"}
FLOATS = ("a_ptr", "weight_ptr", "sum_ptr", "max_ptr", "acc_ptr", "cos_ptr", "sin_ptr", "bias_ptr", "center_ptr")
TYPES = dict.fromkeys(FLOATS, "*fp32") | {
    "scale_ptr": "*fp16",
    "offset_ptr": "*fp16",
    "low_ptr": "*u8",
    "high_ptr": "*u8",
    "sub_scale_ptr": "*i8",
    "sub_offset_ptr": "*i8",
    "slot_ptr": "*i32",
    "table_ptr": "*i32",
    "context_ptr": "*i32",
    "eps": "fp32",
    "scale": "fp32",
}
WIDTHS = {  # of quantised matrices: BITS, GROUP, UNIT, ZERO, OFFSET, SUB_SCALE, SUB_OFFSET
    "q4_0": (4, 32, 32, 8, False, False, False),
    "q4_k": (4, 32, 256, 0, True, True, True),
    "q5_1": (5, 32, 32, 0, True, False, False),
    "q6_k": (6, 16, 256, 32, False, True, False),
    "q8_0": (8, 32, 32, 128, False, False, False),
}
FACTS = ("BITS", "GROUP", "UNIT", "ZERO", "OFFSET", "SUB_SCALE", "SUB_OFFSET")


def type_of(name: str) -> str:
    """Pointers that are not named above are to activations; all else is a size."""
    return TYPES.get(name) or PAGES.get(name) or ("*bf16" if name.endswith("_ptr") else "i32")


def build(kernel, capability: int, constants: dict, **types: str) -> None:
    names = kernel.arg_names
    signature = {name: "constexpr" if name in constants else types.get(name) or type_of(name) for name in names}
    placed = {(names.index(name),): value for name, value in constants.items()}
    made = compile_kernel(ASTSource(kernel, signature, placed), target=GPUTarget("cuda", capability, 32))
    assert made.asm["cubin"]
    print(kernel.__name__, *constants.values())


def main(capability: int) -> None:
    build(rows._add_norm, capability, {"BLOCK": 4096})
    build(rows._silu_mul, capability, {"BLOCK": 1024})
    same = {"k_ptr": "*bf16", "v_ptr": "*bf16"}
    for interleaved in (False, True):
        rope = {"HALF": 64, "INTERLEAVED": interleaved, "BLOCK": 128, "KIND": 0, "CENTER": False}
        build(rows._rope_and_write, capability, rope, **same)
    for kind, pages in ((1, "*i8"), (2, "*u8")):
        bytes_ = same | {"k_pages_ptr": pages, "v_pages_ptr": pages, "k_scale_ptr": "*fp32", "v_scale_ptr": "*fp32"}
        build(rows._rope_and_write, capability, rope | {"KIND": kind, "CENTER": True}, **bytes_)
    sizes = {"PAGE": 16, "GROUP": 4, "ROWS": 16, "BLOCK_D": 128, "BLOCK_N": 64}
    build(attention._attend, capability, {"SCALED": False, "BITS": False} | sizes)
    converts = [("*fp8e4nv", False)] if capability >= 89 else []
    for pages, bits in [("*i8", False), ("*u8", True), *converts]:
        scaled = {"k_ptr": pages, "v_ptr": pages, "k_scale_ptr": "*fp32", "v_scale_ptr": "*fp32"}
        build(attention._attend, capability, {"SCALED": True, "BITS": bits} | sizes, **scaled)
    build(attention._join, capability, {"BLOCK_D": 128})
    fp8_types = {"weight_ptr": "*u8", "scale_ptr": "*fp32"}
    for wide, bits in [(0, True), (128, True), *([(0, False)] if capability >= 89 else [])]:
        constants = {"TALL": 128 if wide else 1, "WIDE": wide, "BITS": bits, "BIAS": True}
        types = fp8_types if bits else fp8_types | {"weight_ptr": "*fp8e4nv"}
        build(fp8._vector_fp8, capability, constants | {"BLOCK_N": 8, "BLOCK_K": 512}, **types)
        build(fp8._tile_fp8, capability, constants | {"BLOCK_M": 16, "BLOCK_N": 64, "BLOCK_K": 64}, **types)
    for facts in WIDTHS.values():
        constants = dict(zip(FACTS, facts, strict=True)) | {"BIAS": True}
        build(quantised._vector, capability, constants | {"BLOCK_N": 8, "BLOCK_P": 256})
        build(quantised._tile, capability, constants | {"BLOCK_M": 16, "BLOCK_N": 64, "BLOCK_P": 32})


if __name__ == "__main__":
    main(int(sys.argv[1]))
