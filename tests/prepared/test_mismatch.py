"""A folder that does not match: built anew with a warning where its source is there, else an error that says why."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from befit.config import EngineOptions
from befit.engine.load import load_model
from befit.errors import BuildMismatch, CorruptFile
from befit.prepared.manifest import METADATA, PROGRAM, TENSORS, WEIGHTS
from befit.prepared.read import open_build, verify
from befit.prepared.write import build
from befit.store.layout import BUILD_MANIFEST

from .conftest import reseal

SMALL = EngineOptions(ctx=64, kv_tokens=64, threads=1)


def older_befit(folder: Path) -> None:
    reseal(folder, packed_layout=0, befit="0.0.1")


def other_format(folder: Path) -> None:
    reseal(folder, version=99)


def other_machine(folder: Path) -> None:
    reseal(folder, byte_order="big")


def cut_weights(folder: Path) -> None:
    os.truncate(folder / WEIGHTS, 100)


def empty_weights(folder: Path) -> None:
    os.truncate(folder / WEIGHTS, 0)


def no_weights(folder: Path) -> None:
    (folder / WEIGHTS).unlink()


def a_pipe_for_weights(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    os.mkfifo(folder / WEIGHTS)


def a_pipe_for_metadata(folder: Path) -> None:
    (folder / METADATA).unlink()
    os.mkfifo(folder / METADATA)


def flipped_metadata(folder: Path) -> None:
    data = bytearray((folder / METADATA).read_bytes())
    data[50] ^= 1
    (folder / METADATA).write_bytes(data)


def edited_manifest(folder: Path) -> None:
    path = folder / BUILD_MANIFEST
    path.write_text(path.read_text().replace("tiny:1b", "evil:1b"))


def other_program(folder: Path) -> None:
    text = (folder / PROGRAM).read_text()
    (folder / PROGRAM).write_text(text.replace('"fn": "silu"', '"fn": "gelu_erf"'))
    reseal(folder)


def moved_tensors(folder: Path) -> None:
    sections = json.loads((folder / TENSORS).read_bytes())
    sections[-1]["offset"] -= 64
    (folder / TENSORS).write_text(json.dumps(sections))
    reseal(folder)


MISMATCHES = {
    older_befit: r"built by befit 0.0.1 with packed layout 0; this befit has layout \d",
    other_format: "has build format 99; this befit reads 1",
    other_machine: "built on a big-endian machine",
    cut_weights: r"weights.bin has 100 bytes instead of [\d,]+",
    empty_weights: r"weights.bin has 0 bytes instead of [\d,]+",
    no_weights: "weights.bin cannot be read: No such file",
    a_pipe_for_weights: "weights.bin is not a regular file",
    a_pipe_for_metadata: "metadata.json is not a regular file",
    flipped_metadata: "metadata.json was changed",
    edited_manifest: "befit-build.json was changed",
    other_program: "program.json is not the program",
    moved_tensors: "does not say what this befit works out",
}


@pytest.mark.parametrize("damage", MISMATCHES)
def test_a_mismatch_is_named(damage: Callable[[Path], None], copy: Callable[[], Path]) -> None:
    folder = copy()
    damage(folder)
    with pytest.raises(BuildMismatch, match=MISMATCHES[damage]) as caught:
        open_build(folder)
    assert caught.value.source is not None


@pytest.mark.parametrize("damage", MISMATCHES)
def test_it_is_built_anew_with_a_warning(
    damage: Callable[[Path], None], copy: Callable[[], Path], caplog: pytest.LogCaptureFixture
) -> None:
    folder = copy()
    damage(folder)
    model = load_model(str(folder), SMALL)
    model.close()
    assert model.path == folder
    assert "building it anew from" in caplog.text
    caplog.clear()
    load_model(str(folder), SMALL).close()
    assert caplog.text == ""
    verify(folder)
    damaged_name = damage in (
        other_format,
        edited_manifest,
    )  # where nobody can say what it was, the file's name is taken
    assert model.name == ("tiny" if damaged_name else "tiny:1b")


@pytest.fixture
def own_source(source: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(source, tmp_path / "own.gguf"))


def test_without_its_source_the_error_says_what_to_do(own_source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "built"
    build(own_source, folder, name="own", threads=1)
    own_source.unlink()
    load_model(str(folder), SMALL).close()  # a folder that matches needs no source
    cut_weights(folder)
    with pytest.raises(
        BuildMismatch, match=rf"100 bytes .* {own_source}, is not there, .* befit build MODEL -o {folder}"
    ):
        load_model(str(folder), SMALL)
    (folder / BUILD_MANIFEST).write_text("{")
    with pytest.raises(BuildMismatch, match=r"no manifest of a befit build.*its source is not known"):
        load_model(str(folder), SMALL)


def test_a_source_that_changed_is_built_anew(
    own_source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "built"
    build(own_source, folder, name="own", threads=1)
    os.utime(own_source, ns=(1, 1))  # another time alone is no change
    open_build(folder)
    data = bytearray(own_source.read_bytes())
    for at in range(len(data) // 2, len(data)):
        data[at] ^= 1
    own_source.write_bytes(data)
    load_model(str(folder), SMALL).close()
    assert f"{own_source} has changed since {folder} was built from it" in caplog.text
    caplog.clear()
    open_build(folder)
    own_source.write_bytes(b"something else")
    with pytest.raises(CorruptFile, match="not a GGUF file"):
        load_model(str(folder), SMALL)


def test_where_building_fails_the_source_itself_is_loaded(
    copy: Callable[[], Path], source: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = copy()
    cut_weights(folder)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr("befit.prepared.write.build", refuse)
    model = load_model(str(folder), SMALL)
    assert (model.path, model.name) == (source, "tiny:1b")
    model.close()
    assert "read-only" in caplog.text


def test_damage_inside_the_weights_is_found_by_verify_alone(copy: Callable[[], Path]) -> None:
    folder = copy()
    data = bytearray((folder / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (folder / WEIGHTS).write_bytes(data)
    open_build(folder)
    with pytest.raises(BuildMismatch, match=r"weights.bin is damaged"):
        verify(folder)


def test_weights_cut_while_they_are_read(copy: Callable[[], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    from befit import backends

    folder = copy()
    create = backends.create

    def cut_first(*args: object, **options: object) -> object:
        os.truncate(folder / WEIGHTS, os.path.getsize(folder / WEIGHTS) - 4096)
        return create(*args, **options)

    monkeypatch.setattr(backends, "create", cut_first)
    with pytest.raises(CorruptFile, match="inside a matrix"):
        load_model(str(folder), SMALL)
