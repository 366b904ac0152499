"""`befit build`: a folder that computes what its file computes, written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from befit.config import EngineOptions
from befit.engine.load import load_model
from befit.errors import BuildMismatch, ConfigError, DoesNotFit, UnsupportedModel
from befit.prepared import write
from befit.prepared.manifest import FILES
from befit.prepared.read import open_build, verify
from befit.prepared.write import build
from befit.store.layout import BUILD_MANIFEST
from support.files import tiny_file
from support.steps import generate, logits_of
from support.tiny import FAMILY_NAMES

TOKENS = [int(t) for t in np.random.default_rng(3).integers(0, 256, 40)]
SMALL = EngineOptions(ctx=64, kv_tokens=256, threads=2)


def logits(path: Path, options: EngineOptions = SMALL) -> np.ndarray:
    model = load_model(str(path), options)
    try:
        return logits_of(model.backend, TOKENS)
    finally:
        model.close()


@pytest.mark.parametrize("family", FAMILY_NAMES)
@pytest.mark.parametrize("storage", ["f32", "f16", "bf16", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0"])
def test_a_built_model_computes_the_same_bits(family: str, storage: str, tmp_path: Path) -> None:
    source = tiny_file(tmp_path / "m.gguf", family, storage=storage, tied=storage != "q8_0", hidden=96, ffn=64)
    build(source, tmp_path / "built", name="m", threads=1)
    assert np.array_equal(logits(tmp_path / "built"), logits(source))


@pytest.mark.parametrize("storage", ["q4_k", "q5_k", "q6_k"])
def test_k_quants_compute_the_same_bits(storage: str, tmp_path: Path) -> None:
    source = tiny_file(tmp_path / "m.gguf", storage=storage, hidden=256, ffn=256, head_dim=64)
    build(source, tmp_path / "built", name="m", threads=2)
    assert np.array_equal(logits(tmp_path / "built"), logits(source))


def test_llama_3_frequencies_are_read_from_the_folder(tmp_path: Path) -> None:
    factors = np.linspace(1, 8, 16, dtype=np.float32)
    source = tiny_file(tmp_path / "m.gguf", llama3_factors=factors, rope__dimension_count=32)
    build(source, tmp_path / "built", name="m", threads=2)
    assert np.array_equal(logits(tmp_path / "built"), logits(source))


@pytest.mark.model
def test_smollm2_says_the_same(smollm2_path: Path, tmp_path: Path) -> None:
    build(smollm2_path, tmp_path / "built", name="smollm2", threads=2)
    said = []
    for path in (smollm2_path, tmp_path / "built"):
        model = load_model(str(path), EngineOptions(ctx=128, kv_tokens=256))
        prompt = model.tokenizer.encode("def fibonacci(n):\n")
        said.append([(r.tokens[0], r.logprob[0]) for r in generate(model.backend, prompt, 24, logprobs=0)])
        assert model.metadata["general.architecture"] == "llama"
        model.close()
    assert said[0] == said[1]


def test_the_folder_says_what_it_is(source: Path, pristine: Path) -> None:
    assert {entry.name for entry in pristine.iterdir()} == {BUILD_MANIFEST, *FILES}
    fields = json.loads((pristine / BUILD_MANIFEST).read_bytes())
    assert (fields["format"], fields["version"], fields["name"]) == ("befit build", 1, "tiny:1b")
    for name, facts in fields["files"].items():
        data = (pristine / name).read_bytes()
        assert facts == {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (file,) = fields["source"]
    assert file["path"] == str(source)
    assert file["size"] == source.stat().st_size
    assert file["sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
    verify(pristine)


def test_building_twice_gives_the_same_files(source: Path, pristine: Path, tmp_path: Path) -> None:
    build(source, tmp_path / "again", name="other", threads=1)
    for name in FILES:
        assert (tmp_path / "again" / name).read_bytes() == (pristine / name).read_bytes()


def test_a_split_model_is_built_from_all_its_parts(tmp_path: Path) -> None:
    whole = tiny_file(tmp_path / "m.gguf")
    import gguf

    reader = gguf.GGUFReader(whole)
    paths = [tmp_path / f"m-0000{n}-of-00002.gguf" for n in (1, 2)]
    for number, path in enumerate(paths):
        writer = gguf.GGUFWriter(path, "llama")
        for field in reader.fields.values():
            if number == 0 and not field.name.startswith(("GGUF.", "general.architecture")):
                kind, sub = field.types[0], field.types[1] if len(field.types) > 1 else None
                writer.add_key_value(field.name, field.contents(), kind, sub_type=sub)
        writer.add_uint16("split.no", number)
        writer.add_uint16("split.count", 2)
        for index, tensor in enumerate(reader.tensors):
            if index % 2 == number:
                writer.add_tensor(tensor.name, tensor.data)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    manifest = build(paths[0], tmp_path / "built", name="m", threads=2)
    assert [Path(file.path) for file in manifest.source] == paths
    assert np.array_equal(logits(tmp_path / "built"), logits(whole))
    os.truncate(paths[1], 100)
    with pytest.raises(BuildMismatch, match=r"m-00002-of-00002\.gguf has changed"):
        open_build(tmp_path / "built")


def test_what_is_there_is_not_touched(source: Path, copy: Callable[[], Path], tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("all of it")
    for force in (False, True):
        with pytest.raises(ConfigError, match=r"not a befit build, so it is left alone. It holds 'thesis.txt'"):
            build(source, mine, name="m", threads=1, force=force)
        with pytest.raises(ConfigError, match="no folder"):
            build(source, mine / "thesis.txt", name="m", threads=1, force=force)
    built = copy()
    with pytest.raises(ConfigError, match="--force replaces it"):
        build(source, built, name="m", threads=1)
    (built / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"It holds 'notes.txt'"):
        build(source, built, name="m", threads=1, force=True)
    assert open_build(built).manifest.name == "tiny:1b"
    assert (mine / "thesis.txt").read_text() == "all of it"


def test_force_replaces_a_build_and_an_empty_folder_is_free(source: Path, copy: Callable[[], Path]) -> None:
    built = copy()
    (built / "weights.bin").write_bytes(b"damaged")
    build(source, built, name="new", threads=1, force=True)
    assert open_build(built).manifest.name == "new"
    empty = built.parent / "empty"
    empty.mkdir()
    build(source, empty, name="new", threads=1)
    verify(empty)
    assert [path.name for path in built.parent.iterdir() if path.name.startswith(".")] == []


def test_a_failure_leaves_nothing_behind(
    source: Path, copy: Callable[[], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = copy()
    before = sorted(tmp_path.rglob("*"))

    def fail(*_: object) -> None:
        raise OSError("the disk is on fire")

    for name in ("open_build", "_install"):
        with monkeypatch.context() as patch:
            patch.setattr(write, name, fail)
            with pytest.raises(OSError, match="on fire"):
                build(source, built, name="m", threads=1, force=True)
            with pytest.raises(OSError, match="on fire"):
                build(source, tmp_path / "new", name="m", threads=1)
    assert sorted(tmp_path.rglob("*")) == before
    verify(built)


def test_a_build_that_cannot_be_moved_into_place_leaves_the_old_one(
    source: Path, copy: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    built, rename = copy(), os.rename

    def refuse(old: Path, new: Path) -> None:
        if Path(new) == built and Path(old).name.endswith(f"{os.getpid()}.partial"):
            raise PermissionError("no")
        rename(old, new)

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(PermissionError):
        build(source, built, name="new", threads=1, force=True)
    assert open_build(built).manifest.name == "tiny:1b"


def test_what_a_killed_build_left_is_removed(source: Path, tmp_path: Path) -> None:
    stale, busy = tmp_path / ".new[1].123.partial", tmp_path / ".new[1].456.partial"
    for folder in (stale, busy):
        folder.mkdir()
        (folder / "weights.bin").write_bytes(b"half")
    with write._locked(busy) as mine:
        assert mine
        build(source, tmp_path / "new[1]", name="m", threads=1)
    assert not stale.exists()
    assert busy.exists()


def test_a_full_disk_is_told_before_anything_is_written(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1_000_000))
    monkeypatch.setattr(write, "plan", lambda *_: ([], 5_000_000_000))
    with pytest.raises(DoesNotFit, match=r"takes 5,000 MB and .* has 1 MB free"):
        build(source, tmp_path / "new", name="m", threads=1)
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_cannot_be_served_is_not_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("support.files.vocabulary", lambda *_: {"tokenizer.ggml.model": "rwkv"})
    with pytest.raises(UnsupportedModel, match="rwkv"):
        build(tiny_file(tmp_path / "m.gguf"), tmp_path / "new", name="m", threads=1)
    assert not (tmp_path / "new").exists()


def test_the_reference_backend_needs_the_file(pristine: Path) -> None:
    with pytest.raises(ConfigError, match="packed for the native backend"):
        load_model(str(pristine), EngineOptions(backend="reference"))
