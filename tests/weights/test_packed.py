"""Quantised checkpoints against the reference implementations of their formats (see `packed/generate.py`)."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from befit import backends
from befit.backends.native.backend import NativeBackend
from befit.errors import CorruptFile, ModelError, UnsupportedModel
from befit.models import describe
from befit.plan.opened import of_weights
from befit.plan.source import find
from befit.weights.checkpoint import open_checkpoint
from befit.weights.hf_folder import HFFolder
from befit.weights.packed import Made, Raw
from befit.weights.quantized import reader_of
from befit.weights.safetensors import read_safetensors
from befit.weights.tensor import MadeTensor
from support.files import VOCAB
from support.hf import Arrays, hf_arrays, hf_config, stored, write_folder
from support.steps import logits_of
from support.tiny import tiny_model

HERE = Path(__file__).parent / "packed"
F32 = np.float32

# What each fixture becomes. EXACT: every weight is the reference's to the last bit of float32; HALF: the integers are
# the file's own and scales are rounded to float16; NEAREST: 8-bit integers, at most 1/254 of the largest of 32 away
# (a little more, because their scale is rounded to float16).
EXACT, HALF, NEAREST = "exact", "half", "nearest"
FIXTURES = {
    "awq-g64": ("q4_z", EXACT),
    "awq-g32": ("q4_z", EXACT),
    "gptq-4-sym": ("q4_0", EXACT),
    "gptq-4": ("q4_z", EXACT),
    "gptq-4-v2": ("q4_z", EXACT),
    "gptq-4-act-order": ("q8_0", NEAREST),
    "gptq-2": ("q4_z", EXACT),
    "gptq-3": ("q4_z", EXACT),
    "gptq-8-sym": ("q8_0", EXACT),
    "gptq-8": ("q8_0", NEAREST),
    "ct-4-sym": ("q4_zb", EXACT),
    "ct-4-sym-f16": ("q4_0", EXACT),
    "ct-4": ("q4_zb", EXACT),
    "ct-3": ("q4_z", EXACT),
    "ct-8": ("q8_0", EXACT),
    "ct-int8": ("q8_0", EXACT),
    "ct-int8-zero": ("q8_0", NEAREST),
    "ct-fp8": ("q8_0", NEAREST),
    "fp8": ("q8_0", NEAREST),
    "fp8-blocks": ("q8_0", NEAREST),
    "bnb-nf4": ("q8_0", NEAREST),
    "bnb-nf4-nested": ("q8_0", NEAREST),
    "bnb-fp4": ("q8_0", NEAREST),
    "bnb-int8": ("q8_0", HALF),
}


def read(name: str, **changes: Any) -> tuple[Made, np.ndarray]:
    """What a fixture's module becomes under changed settings, and what the reference implementation says of it."""
    parts, settings, expected = parts_of(name)
    made = reader_of(settings | changes, name)[1]("m", parts)
    assert made is not None
    assert set(made.uses) == set(parts)
    return made, expected


def parts_of(name: str) -> tuple[dict[str, Raw], dict[str, Any], np.ndarray]:
    """A fixture's tensors, settings and weights."""
    file = read_safetensors(HERE / f"{name}.safetensors")
    settings = json.loads(metadata(HERE / f"{name}.safetensors")["settings"])
    parts = {
        key.removeprefix("m."): Raw(key, entry.dtype, entry.shape, partial(file.raw, key))
        for key, entry in file.entries.items()
        if key != "expected"
    }
    return parts, settings, file.raw("expected").view(F32).reshape(file.entries["expected"].shape)


def metadata(path: Path) -> dict[str, str]:
    data = path.read_bytes()
    return json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]


@pytest.mark.parametrize("name", FIXTURES)
def test_the_weights_are_those_of_the_reference_implementation(name: str) -> None:
    made, expected = read(name)
    form, kind = FIXTURES[name]
    tensor = MadeTensor("m", made.shape, made.format, made.make)
    assert (tensor.format.name, tensor.shape) == (form, expected.shape)
    assert tensor.nbytes == tensor.raw.nbytes
    found = tensor.dequantize()
    blocks = np.abs(expected).reshape(expected.shape[0], -1, 32).max(axis=2, keepdims=True)
    error = np.abs(found - expected).reshape(expected.shape[0], -1, 32)
    bound = {EXACT: 3e-7, HALF: 1 / 2048, NEAREST: 1.01 / 254 + 1 / 2048}[kind]
    assert (error <= bound * blocks).all()
    assert (made.note is None) == (kind == EXACT)


def test_every_fixture_is_read() -> None:
    assert {path.stem for path in HERE.glob("*.safetensors")} == set(FIXTURES)


# -- whole folders ----------------------------------------------------------------------------------------------------


def to_awq(values: np.ndarray, group: int = 32) -> tuple[Arrays, np.ndarray]:
    """A matrix as AWQ stores it, written from the published layout, and the weights that it stands for."""
    rows, columns = values.shape
    grouped = values.reshape(rows, -1, group)
    low, high = np.minimum(grouped.min(2), 0), np.maximum(grouped.max(2), 0)
    scale = ((high - low) / 15).astype(np.float16)
    zero = np.clip(np.rint(-low / scale.astype(F32)), 0, 15)
    q = np.clip(np.rint(grouped / scale.astype(F32)[..., None] + zero[..., None]), 0, 15)
    exact = ((q - zero[..., None]) * scale.astype(F32)[..., None]).reshape(rows, columns)

    def words(integers: np.ndarray) -> np.ndarray:  # [n, rows] to [n, rows / 8]
        out = np.zeros((integers.shape[0], rows // 8), np.uint32)
        for nibble, output in enumerate((0, 2, 4, 6, 1, 3, 5, 7)):
            out |= integers[:, output::8].astype(np.uint32) << np.uint32(4 * nibble)
        return out.view(np.int32)

    q = q.reshape(rows, columns)
    arrays = {"qweight": ("I32", words(q.T)), "qzeros": ("I32", words(zero.T)), "scales": ("F16", scale.T)}
    return arrays, exact


def to_compressed(values: np.ndarray, group: int = 32) -> tuple[Arrays, np.ndarray]:
    """A matrix as compressed-tensors packs it in 4 bits with bfloat16 scales, and the weights that it stands for."""
    rows, columns = values.shape
    grouped = values.reshape(rows, -1, group)
    bits = stored(np.abs(grouped).max(2) / 7, "BF16")
    scale = (bits.astype(np.uint32) << 16).view(F32)
    q = np.clip(np.rint(grouped / scale[..., None]), -8, 7)
    words = np.zeros((rows, columns // 8), np.uint32)
    for nibble in range(8):
        words |= (q.reshape(rows, columns)[:, nibble::8] + 8).astype(np.uint32) << np.uint32(4 * nibble)
    shape = np.array([rows, columns], np.int64)
    arrays: Arrays = {"weight_packed": ("I32", words.view(np.int32)), "weight_scale": ("BF16", bits)}
    return arrays | {"weight_shape": ("I64", shape)}, (q * scale[..., None]).reshape(rows, columns)


def to_int8(values: np.ndarray) -> tuple[Arrays, np.ndarray]:
    """A matrix as bitsandbytes stores it in 8 bits, and the weights that it stands for."""
    scale = np.abs(values).max(1).astype(F32)
    q = np.rint(values * (127 / scale)[:, None]).astype(np.int8)
    return {"weight": ("I8", q), "SCB": ("F32", scale)}, q * (scale / 127)[:, None]


FOLDERS: dict[str, tuple[Any, dict[str, Any], str, float]] = {
    "awq": (to_awq, {"quant_method": "awq", "bits": 4, "version": "gemm"}, "AWQ 4-bit", 1e-5),
    "compressed-tensors": (
        to_compressed,
        {"quant_method": "compressed-tensors", "format": "pack-quantized"},
        "compressed-tensors 4-bit",
        1e-5,
    ),
    "bitsandbytes": (to_int8, {"quant_method": "bitsandbytes", "load_in_8bit": True}, "bitsandbytes int8", 1e-2),
}


@pytest.fixture
def quantised(tmp_path: Path) -> Callable[[str], tuple[Path, Any]]:
    """quantised(method) -> a folder of a tiny model, and the model with the weights that its file stands for."""

    def make(method: str) -> tuple[Path, Any]:
        pack, quantization, _, _ = FOLDERS[method]
        model = tiny_model("qwen2", vocab=VOCAB)
        arrays: Arrays = {}
        for name, (dtype, values) in hf_arrays(model, "F32").items():
            module = name.removesuffix(".weight")
            if not module.endswith("_proj"):
                arrays[name] = (dtype, values)
                continue
            packed, exact = pack(values)
            arrays |= {f"{module}.{key}": value for key, value in packed.items()}
            canonical = next(key for key in model.tensors if np.array_equal(model.weight(key), values))
            model.tensors[canonical].data[...] = exact
        config = hf_config(model, quantization_config=quantization)
        return write_folder(tmp_path / method, config, arrays), model

    return make


def logits(backend: str, program: Any, tensors: Any) -> np.ndarray:
    made = backends.create(backend, program, tensors, block_size=16, n_blocks=4, threads=1, max_tokens=64, max_rows=64)
    try:
        return logits_of(made, [5, 17, 3, 3, 42, 60, 9, 11, 2, 71, 33, 8])
    finally:
        made.close()


@pytest.mark.parametrize("method", FOLDERS)
def test_a_quantised_folder_runs_on_both_backends(quantised: Any, method: str) -> None:
    folder, model = quantised(method)
    expected = logits("reference", model.program, model.tensors)
    with open_checkpoint(folder) as file:
        program = describe(file.metadata, file.shapes)
        tensors = {name: file.tensors[name] for name in program.weight_names()}
        spread = expected.std()
        np.testing.assert_allclose(logits("reference", program, tensors), expected, atol=FOLDERS[method][3] * spread)
        np.testing.assert_allclose(logits("native", program, tensors), expected, atol=2e-2 * spread)
        file.release(tensors["blk.0.attn_q.weight"])
        types = {kind.split(",")[0] for kind, _ in file.types}
        assert types == {"F32", FOLDERS[method][2]}
        assert bool(file.notes) == (method == "bitsandbytes")


@pytest.mark.parametrize("method", FOLDERS)
def test_what_it_takes_of_memory_is_known_before_it_is_read(quantised: Any, method: str) -> None:
    folder, _ = quantised(method)
    with open_checkpoint(folder) as file:
        program = describe(file.metadata, file.shapes)
        tensors = {name: file.tensors[name] for name in program.weight_names()}
        facts = of_weights("tiny", str(folder), program, tensors)
        made = NativeBackend(
            program,
            tensors,
            block_size=16,
            n_blocks=4,
            threads=2,
            kv_dtype="f16",
            max_tokens=37,
            max_rows=9,
        )
    beside = facts.memory["embedding"] + facts.memory["norms, biases"]
    assert facts.buffers is not None
    assert made.model.buffer_bytes == facts.buffers.exact(37, 9, 2)
    assert made.weight_bytes == pytest.approx(facts.memory_bytes - beside, abs=64 * len(tensors))
    assert find(str(folder)).memory == facts.memory
    made.close()


def test_biases_beside_quantised_weights_are_kept(quantised: Any) -> None:
    folder, model = quantised("awq")
    with HFFolder.open(folder) as file:
        np.testing.assert_array_equal(file.tensors["blk.0.attn_q.bias"].dequantize(), model.weight("blk.0.attn_q.bias"))


@pytest.mark.parametrize(
    ("quantization", "text"),
    [
        ({"quant_method": "aqlm"}, "quantised by 'aqlm'"),
        ({}, "quantised by None"),
        ({"quant_method": "awq", "version": "gemv"}, "version 'gemv'"),
        ({"quant_method": "awq", "bits": 3}, "3 bits"),
        ({"quant_method": "gptq", "bits": 5}, "5 bits"),
        ({"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"}, "layout 'marlin'"),
        ({"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized"}, "nvfp4-pack-quantized"),
        (
            {"quant_method": "compressed-tensors", "format": "int-quantized", "sparsity_config": {"format": "2:4"}},
            "sparsity_config",
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "format": "pack-quantized",
                "config_groups": {"group_0": {"weights": {"num_bits": 7}}},
            },
            "7 bits",
        ),
        ({"quant_method": "fp8", "fmt": "e5m2"}, "e5m2"),
    ],
)
def test_what_is_refused_by_name(tmp_path: Path, quantization: dict[str, Any], text: str) -> None:
    model = tiny_model("llama", vocab=VOCAB)
    config = hf_config(model, quantization_config=quantization)
    with pytest.raises(UnsupportedModel, match=text):
        HFFolder.open(write_folder(tmp_path / "m", config, hf_arrays(model)))


def test_a_configuration_that_the_tensors_do_not_bear_out(tmp_path: Path) -> None:
    model = tiny_model("llama", vocab=VOCAB)
    config = hf_config(model, quantization_config={"quant_method": "awq", "bits": 4})
    with pytest.raises(CorruptFile, match="no tensor is quantised so"):
        HFFolder.open(write_folder(tmp_path / "m", config, hf_arrays(model)))


def test_settings_in_a_file_of_their_own(quantised: Any) -> None:
    folder, _ = quantised("awq")
    config = json.loads((folder / "config.json").read_text())
    del config["quantization_config"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedModel):
        describe_folder(folder)
    (folder / "quant_config.json").write_text(json.dumps({"w_bit": 4, "q_group_size": 32, "version": "GEMM"}))
    describe_folder(folder)


def describe_folder(folder: Path) -> None:
    with HFFolder.open(folder) as file:
        describe(file.metadata, file.shapes)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_any_shapes_and_types_are_an_error_of_ours_or_none(data: st.DataObject) -> None:
    """Headers lie about a fixture's tensors: readers check before they compute."""
    name = data.draw(st.sampled_from(sorted(FIXTURES)))
    file = read_safetensors(HERE / f"{name}.safetensors")
    quantization = json.loads(metadata(HERE / f"{name}.safetensors")["settings"])
    parts = {}
    for key, entry in file.entries.items():
        if key == "expected" or data.draw(st.integers(0, 9)) == 0:
            continue
        dtype, shape, raw = entry.dtype, entry.shape, partial(file.raw, key)
        if data.draw(st.integers(0, 4)) == 0:
            shape = tuple(data.draw(st.lists(st.sampled_from([0, 1, 2, 4, 16, 31, 32, 64, 128]), max_size=3)))
            dtype = data.draw(st.sampled_from(["F32", "F16", "BF16", "I32", "I64", "I8", "U8", "F8_E4M3"]))
            sizes = {"F32": 4, "F16": 2, "BF16": 2, "I32": 4, "I64": 8}
            count = int(np.prod(shape)) * sizes.get(dtype, 1)
            filled = np.full(count, data.draw(st.sampled_from([0, 1, 0x7F, 0xFF])), np.uint8)
            raw = partial(lambda filled: filled, filled)
        parts[key.removeprefix("m.")] = Raw(key, dtype, shape, raw)
    with suppress(ModelError):
        made = reader_of(quantization, name)[1]("m", parts)
        if made is not None:
            MadeTensor("m", made.shape, made.format, made.make).dequantize()


def test_a_built_folder_of_a_quantised_one(quantised: Any, tmp_path: Path) -> None:
    from befit.prepared.read import open_build
    from befit.prepared.write import build

    folder, _ = quantised("awq")
    build(folder, tmp_path / "built", name="m", threads=1)
    made = open_build(tmp_path / "built")
    try:
        assert {s.format for s in made.sections if s.role == "matrix" and "ffn" in s.name} == {"q4_z"}
        with open_checkpoint(folder) as file:
            program = describe(file.metadata, file.shapes)
            tensors = {name: file.tensors[name] for name in program.weight_names()}
            assert made.program == program
            np.testing.assert_array_equal(logits("native", program, made.weights), logits("native", program, tensors))
    finally:
        made.close()
    shutil.rmtree(folder)


def test_loading_says_what_is_not_exact(quantised: Any) -> None:
    from befit.config import EngineOptions
    from befit.engine.load import load_model

    folder, _ = quantised("bitsandbytes")
    said: list[str] = []
    load_model(str(folder), EngineOptions(ctx=64, kv_tokens=128, threads=1), report=said.append).close()
    assert "note" in said[0]
    assert "scales of bitsandbytes int8 are rounded to float16" in said[0]
    assert "(14 matrices)" in said[0]


@pytest.mark.parametrize("name", ["gptq-2", "gptq-3", "gptq-8-sym"])
def test_a_module_with_a_width_of_its_own(name: str) -> None:
    made, expected = read(name, bits=4)
    found = MadeTensor("m", made.shape, made.format, made.make).dequantize()
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("dtype", ["BF16", "F32"])
@pytest.mark.parametrize("name", ["awq-g64", "gptq-4-sym", "gptq-3", "gptq-8-sym", "ct-4-sym-f16", "ct-3"])
def test_scales_of_other_types(name: str, dtype: str) -> None:
    parts, quantization, expected = parts_of(name)
    key = "weight_scale" if "weight_scale" in parts else "scales"
    old = parts[key].floats()
    new = old * np.linspace(0.9, 1.1, old.size, dtype=F32).reshape(old.shape)
    raw = stored(new, dtype)
    parts[key] = Raw(key, dtype, old.shape, lambda: raw.view(np.uint8).reshape(-1))
    ratio = parts[key].floats() / old
    ratio = ratio if key == "weight_scale" else ratio.T
    made = reader_of(quantization, name)[1]("m", parts)
    assert made is not None
    found = MadeTensor("m", made.shape, made.format, made.make).dequantize()
    kept = dtype == "BF16"
    wanted = expected * np.repeat(ratio, expected.shape[1] // ratio.shape[1], axis=1)
    np.testing.assert_allclose(found, wanted, rtol=1e-6 if kept else 1 / 2048, atol=1e-9)
    assert (made.note is None) == kept
