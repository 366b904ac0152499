"""Folders that were built for cards: what they hold is what a load makes, to the bit, and one that does not match is
built anew."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

pytest.importorskip("befit.backends.native._native")

from befit import backends  # noqa: E402
from befit.backends.cuda import device  # noqa: E402
from befit.backends.cuda.arrays import form_of, make_arrays  # noqa: E402
from befit.backends.cuda.fp8 import load_fp8  # noqa: E402
from befit.backends.cuda.transfer import Transfer  # noqa: E402
from befit.backends.cuda.weights import load_packed, load_quantised  # noqa: E402
from befit.backends.native import _native  # noqa: E402
from befit.bench.random_weights import random_matrix, random_quant  # noqa: E402
from befit.cli.show import describe  # noqa: E402
from befit.config import EngineOptions  # noqa: E402
from befit.engine.load import load_model, settle  # noqa: E402
from befit.errors import BuildMismatch, ConfigError, CorruptFile, DoesNotFit  # noqa: E402
from befit.plan.fit import _card_weights  # noqa: E402
from befit.prepared.manifest import TENSORS, WEIGHTS, _digest, read_manifest  # noqa: E402
from befit.prepared.read import open_build, verify  # noqa: E402
from befit.prepared.write import build, build_from, workshop  # noqa: E402
from befit.quantize.convert import convert  # noqa: E402
from befit.store.layout import BUILD_MANIFEST  # noqa: E402
from befit.weights.blocks import Q4_Z, Q4_ZB  # noqa: E402
from befit.weights.checkpoint import open_checkpoint  # noqa: E402
from befit.weights.tensor import Fp8, MadeTensor, PackedTensor, QuantTensor  # noqa: E402
from support.files import tiny_file  # noqa: E402
from support.steps import logits_of  # noqa: E402
from support.tiny import FAMILY_NAMES  # noqa: E402

CPU = torch.device("cpu")
TOKENS = [int(t) for t in np.random.default_rng(3).integers(0, 256, 40)]
CARD = EngineOptions(backend="cuda", ctx=64, kv_tokens=256, threads=1)
NATIVE = EngineOptions(backend="native", ctx=64, kv_tokens=256, threads=1)
AUTO = EngineOptions(ctx=64, kv_tokens=256, threads=1)


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    monkeypatch.setenv("BEFIT_CUDA_DEVICE", "cpu")
    monkeypatch.setenv("TRITON_INTERPRET", "0")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return tiny_file(tmp_path_factory.mktemp("source") / "m.gguf", storage="q4_0")


@pytest.fixture(scope="module")
def pristine(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("built") / "tiny"
    build(source, folder, name="tiny:1b", threads=1, backend="cuda")
    return folder


@pytest.fixture
def copy(pristine, tmp_path):
    return Path(shutil.copytree(pristine, tmp_path / "copy"))


def logits(path, options=CARD):
    model = load_model(str(path), options)
    try:
        return logits_of(model.backend, TOKENS, chunks=[30, 1, 1, 8])
    finally:
        model.close()


def reseal(folder, **changes):
    path = folder / BUILD_MANIFEST
    fields = json.loads(path.read_bytes()) | changes
    fields.pop("sha256")
    path.write_text(json.dumps({**fields, "sha256": _digest(fields)}))


@pytest.mark.parametrize("family", FAMILY_NAMES)
@pytest.mark.parametrize("storage", ["f32", "bf16", "q4_0", "q5_1"])
def test_a_built_model_computes_the_same_bits(family, storage, tmp_path):
    path = tiny_file(tmp_path / "m.gguf", family, storage=storage, tied=storage != "q4_0", hidden=96, ffn=64)
    build(path, tmp_path / "built", name="m", threads=1, backend="cuda")
    assert np.array_equal(logits(tmp_path / "built"), logits(path))
    verify(tmp_path / "built")


@pytest.mark.parametrize("storage", ["q4_k", "q5_k", "q6_k"])
def test_k_quants_compute_the_same_bits(storage, tmp_path):
    path = tiny_file(tmp_path / "m.gguf", storage=storage, hidden=256, ffn=256, head_dim=64)
    build(path, tmp_path / "built", name="m", threads=1, backend="cuda")
    assert np.array_equal(logits(tmp_path / "built"), logits(path))


def zeros_of_its_own(fmt):
    rng = np.random.default_rng(5)
    raw = rng.integers(0, 255, (12, 4 * fmt.block_bytes), dtype=np.uint8)
    raw.reshape(12, 4, -1)[:, :, 1] = 0x30  # scales that are finite
    return QuantTensor("w", (12, 128), fmt, raw)


def e4m3(tall, wide):
    rng = np.random.default_rng(6)
    bits = rng.integers(0, 0x70, (40, 96), dtype=np.uint8)
    scale = rng.random((-(-40 // tall), -(-96 // wide)), dtype=np.float32)
    return MadeTensor(
        "w", (40, 96), Q4_Z, lambda: pytest.fail("blocks are not needed"), Fp8(tall, wide, lambda: (bits, scale))
    )


TENSORS_OF = {
    **{
        kind: lambda k=kind: random_quant(np.random.default_rng(3), "w", 12, 512, k)
        for kind in ("q4_1", "q8_0", "q5_0")
    },
    "q4_z": lambda: zeros_of_its_own(Q4_Z),
    "q4_zb": lambda: zeros_of_its_own(Q4_ZB),
    "e4m3 rows": lambda: e4m3(1, 96),
    "e4m3 matrix": lambda: e4m3(40, 96),
    "e4m3 blocks": lambda: e4m3(16, 32),
}


@pytest.mark.parametrize("kind", TENSORS_OF)
def test_every_kind_of_matrix_comes_back_as_a_load_makes_it(kind, tmp_path):
    tensor = TENSORS_OF[kind]()
    made = make_arrays(tensor)
    parts, content = {}, b"\0" * 64
    for name, part in made.items():
        parts[name] = len(content)
        content += np.ascontiguousarray(part).tobytes()
    (tmp_path / "w").write_bytes(content)
    with open(tmp_path / "w", "rb") as file:
        packed = PackedTensor(
            "w", tensor.shape, form_of(tensor), True, file.fileno(), 64, len(content) - 64, backend="cuda", parts=parts
        )
        got = load_packed(packed, Transfer(CPU), CPU, torch.float32)
    expected = load_fp8(tensor, CPU) if "e4m3" in kind else load_quantised(tensor, CPU)
    assert got.nbytes == expected.nbytes
    for field in expected.__slots__:
        one, two = getattr(got, field), getattr(expected, field)
        if isinstance(two, torch.Tensor):
            assert one.dtype == two.dtype
            assert torch.equal(one.view(torch.uint8), two.view(torch.uint8))
        elif field != "wide":  # of scales a row, any width from the columns on says the same
            assert one == two
    if "e4m3" in kind:
        assert got.by_row == expected.by_row


def test_a_dense_matrix_becomes_what_the_device_computes_in(tmp_path):
    tensor = random_matrix(np.random.default_rng(1), "w", 20, 64, "bf16")
    (tmp_path / "w").write_bytes(tensor.data.tobytes())
    with open(tmp_path / "w", "rb") as file:
        packed = PackedTensor("w", (20, 64), "bf16", False, file.fileno(), 0, 2560, backend="cuda", parts={"data": 0})
        for dtype in (torch.bfloat16, torch.float16, torch.float32):
            got = load_packed(packed, Transfer(CPU), CPU, dtype)
            assert got.dtype == dtype
            assert torch.equal(got, torch.from_numpy(tensor.dequantize()).to(dtype))


class Replaced:
    """A checkpoint with other tensors."""

    def __init__(self, file, tensors):
        self._file, self.tensors = file, tensors

    def __getattr__(self, name):
        return getattr(self._file, name)


def test_a_model_of_e4m3_is_built_as_it_is(tmp_path):
    path = tiny_file(tmp_path / "m.gguf")
    with open_checkpoint(path) as file:
        tensors = dict(file.tensors)
        for number, name in enumerate(name for name in tensors if "ffn" in name and name.endswith("up.weight")):
            bits = np.random.default_rng(number).integers(0, 0x60, tensors[name].shape, dtype=np.uint8)
            source = Fp8(1, 64, lambda bits=bits: (bits, np.full((len(bits), 1), 0.01, np.float32)))
            tensors[name] = MadeTensor(name, tensors[name].shape, Q4_Z, lambda: None, source)
        build_from(Replaced(file, tensors), tmp_path / "built", name="m", threads=1, backend="cuda")
        model = load_model(str(tmp_path / "built"), CARD)
        names = model.program.weight_names()
        plain = backends.create(
            "cuda", model.program, {name: tensors[name] for name in names}, n_blocks=16, max_tokens=64, max_rows=64
        )
        assert np.array_equal(logits_of(model.backend, TOKENS), logits_of(plain, TOKENS))
        assert model.backend.weight_bytes == plain.weight_bytes == _card_weights(settle(str(model.path), CARD)[2], 4)
        plain.close()
        model.close()
        assert describe(model.path)["quantisation"].keys() == {"F32", "E4M3"}


def test_a_quantised_folder_is_quantised_anew_for_a_card(source, tmp_path, caplog):
    folder = tmp_path / "w8"
    convert(source, folder, to="w8", name="tiny:w8", threads=1, measured=False)
    logits(folder)
    assert "was built for the native backend, and cuda is to load it" in caplog.text
    manifest = read_manifest(folder)
    assert (manifest.backend, manifest.quantised, manifest.name) == ("cuda", "w8/auto", "tiny:w8")
    built = open_build(folder)
    built.close()
    assert {s.format for s in built.sections if "ffn" in s.name and s.role == "low"} == {"q8_0"}


def test_what_is_planned_for_a_card_is_what_the_folder_takes(pristine, source):
    built, plain = settle(str(pristine), CARD), settle(str(source), CARD)
    assert built[1].weights == plain[1].weights
    model = load_model(str(pristine), CARD)
    assert model.backend.weight_bytes == _card_weights(built[2], 4)
    assert model.quantisation == "Q4_0"
    model.close()


def test_the_folder_names_its_backend_and_every_array_begins_at_a_page(pristine):
    manifest = read_manifest(pristine)
    assert (manifest.backend, manifest.name) == ("cuda", "tiny:1b")
    folder = open_build(pristine)
    folder.close()
    arrays = [section for section in folder.sections if section.role != "vector"]
    assert {section.role for section in arrays} == {"low", "scale"}
    assert all(section.offset % 4096 == 0 for section in arrays)


def test_a_native_folder_is_as_it_was(source, tmp_path):
    build(source, tmp_path / "native", name="m", threads=1)
    assert "backend" not in json.loads((tmp_path / "native" / BUILD_MANIFEST).read_bytes())


def older(folder):
    reseal(folder, packed_layout=0, befit="0.0.1")


def of_another_kind(folder):
    reseal(folder, backend="tpu")


def said_to_be_native(folder):
    reseal(folder, backend="native", packed_layout=_native.packed_layout)


def cut(folder):
    os.truncate(folder / WEIGHTS, 5000)


def array_elsewhere(folder):
    sections = json.loads((folder / TENSORS).read_bytes())
    sections[-1]["role"] = "high"
    data = json.dumps(sections).encode()
    (folder / TENSORS).write_bytes(data)
    files = json.loads((folder / BUILD_MANIFEST).read_bytes())["files"]
    files[TENSORS] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    reseal(folder, files=files)


MISMATCHES = {
    older: "built by befit 0.0.1 with packed layout 0; this befit has layout 1",
    of_another_kind: "built for a backend 'tpu'",
    said_to_be_native: "was built for the native backend, and cuda is to load it",
    cut: "weights.bin has 5,000 bytes",
    array_elsewhere: "has no array 'high'",
}


@pytest.mark.parametrize("damage", MISMATCHES)
def test_a_folder_that_does_not_match_is_built_anew_with_a_warning(damage, copy, source, caplog):
    damage(copy)
    with pytest.raises(BuildMismatch, match=MISMATCHES[damage]):
        open_build(copy, backend="cuda")
    assert np.array_equal(logits(copy), logits(source))
    assert "building it anew from" in caplog.text
    caplog.clear()
    verify(copy)
    assert read_manifest(copy).backend == "cuda"
    logits(copy)
    assert caplog.text == ""


def test_a_folder_lied_about_as_native_is_refused_by_what_is_in_it(copy):
    said_to_be_native(copy)
    with pytest.raises(BuildMismatch, match=r"tensors\.json is wrong"):
        open_build(copy)


def test_another_backend_builds_it_anew_for_itself(copy, source, caplog):
    assert np.array_equal(logits(copy, NATIVE), logits(source, NATIVE))
    assert "was built for the cuda backend, and native is to load it; building it anew" in caplog.text
    assert read_manifest(copy).backend == "native"
    assert np.array_equal(logits(copy), logits(source))
    assert read_manifest(copy).backend == "cuda"


def test_auto_takes_it_where_there_is_a_card_and_builds_it_for_the_cpu_elsewhere(copy, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("befit.engine.resolve.auto_backend", lambda options: "cuda")
        model = load_model(str(copy), AUTO)
        assert model.backend.name == "cuda"
        model.close()
    model = load_model(str(copy), AUTO)
    assert (model.backend.name, read_manifest(copy).backend) == ("native", "native")
    model.close()


def test_without_its_source_the_error_says_how_to_build_it(copy):
    sources = json.loads((copy / BUILD_MANIFEST).read_bytes())["source"]
    reseal(copy, source=[{**sources[0], "path": "/nowhere/m.gguf"}], packed_layout=9)
    with pytest.raises(BuildMismatch, match=rf"befit build MODEL -o {copy} --force --backend cuda"):
        load_model(str(copy), CARD)


def test_without_a_device_nothing_is_built(copy, monkeypatch):
    before = (copy / BUILD_MANIFEST).read_bytes()
    monkeypatch.setattr(device, "installed", lambda: False)
    with pytest.raises(ConfigError, match="torch is not installed"):
        load_model(str(copy), CARD)
    assert (copy / BUILD_MANIFEST).read_bytes() == before


def test_the_reference_refuses_it(copy):
    with pytest.raises(ConfigError, match="packed for the cuda backend"):
        load_model(str(copy), EngineOptions(backend="reference", ctx=64, kv_tokens=256))


def test_weights_cut_while_they_are_read(copy, monkeypatch):
    create = backends.create

    def cut_first(*args, **options):
        os.truncate(copy / WEIGHTS, os.path.getsize(copy / WEIGHTS) - 4096)
        return create(*args, **options)

    monkeypatch.setattr(backends, "create", cut_first)
    with pytest.raises(CorruptFile, match="ends inside a matrix"):
        load_model(str(copy), CARD)


def test_a_folder_too_large_for_the_device_is_refused_with_numbers(copy):
    with pytest.raises(DoesNotFit, match="does not fit"):
        load_model(str(copy), EngineOptions(backend="cuda", ctx=64, memory="1MB"))


def test_a_killed_build_leaves_no_half_folder(source, tmp_path):
    code = (
        "import os, signal, sys; from pathlib import Path; from befit.prepared import write\n"
        "real = write._write\n"
        "def killed(path, pieces, show):\n"
        "    if path.name == 'weights.bin':\n"
        "        path.write_bytes(next(iter(pieces))); os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return real(path, pieces, show)\n"
        "write._write = killed\n"
        "write.build(Path(sys.argv[1]), Path(sys.argv[2]), name='m', threads=1, backend='cuda')\n"
    )
    target = tmp_path / "built"
    done = subprocess.run([sys.executable, "-c", code, str(source), str(target)], env={**os.environ}, timeout=60)
    assert done.returncode == -9
    assert not target.exists()
    assert [path.name.endswith(".partial") for path in tmp_path.iterdir()] == [True]
    with workshop(target):
        pass  # the next build removes what the killed one left
    assert list(tmp_path.iterdir()) == []
