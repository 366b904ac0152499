"""Folders for the CUDA backend are written, opened and checked without torch."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from befit.backends.cuda.arrays import LAYOUT, arrays, make_arrays
from befit.backends.cuda.size import weight_bytes
from befit.errors import BefitError, BuildMismatch, UnsupportedModel
from befit.prepared.manifest import FILES, TENSORS, WEIGHTS, read_manifest
from befit.prepared.read import open_build, verify
from befit.prepared.write import build
from befit.store.layout import BUILD_MANIFEST
from befit.weights.blocks import ALL_FORMATS
from befit.weights.checkpoint import open_checkpoint
from befit.weights.tensor import PackedTensor

from .conftest import reseal
from .test_hostile import changed, leaves, odd


@pytest.fixture(scope="session")
def for_cards(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cards") / "tiny"
    build(source, folder, name="tiny:1b", threads=1, backend="cuda")
    return folder


@pytest.fixture(scope="module")
def playground(for_cards: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    folder = tmp_path_factory.mktemp("hostile") / "built"

    def renew() -> Path:
        shutil.rmtree(folder, ignore_errors=True)
        return Path(shutil.copytree(for_cards, folder))

    return renew


def test_the_file_has_every_array_where_the_folder_says(for_cards: Path, source: Path) -> None:
    verify(for_cards)
    manifest = read_manifest(for_cards)
    assert (manifest.backend, manifest.packed_layout) == ("cuda", LAYOUT)
    assert {entry.name for entry in for_cards.iterdir()} == {BUILD_MANIFEST, *FILES}
    folder, content = open_build(for_cards, backend="cuda"), (for_cards / WEIGHTS).read_bytes()
    folder.close()
    with open_checkpoint(source) as file:
        for name, weight in folder.weights.items():
            tensor = file.tensors[name]
            if not isinstance(weight, PackedTensor):
                assert np.array_equal(weight.dequantize(), tensor.dequantize())
                continue
            made = make_arrays(tensor)
            assert list(weight.parts) == list(made)
            assert weight.nbytes == sum(array.nbytes for array in made.values())
            for array in arrays(name, weight.format, weight.shape):
                offset = weight.parts[array.name]
                stored = np.frombuffer(content, array.dtype, array.nbytes // array.dtype.itemsize, offset)
                assert offset % 4096 == 0
                assert stored.tobytes() == np.ascontiguousarray(made[array.name]).tobytes()


@pytest.mark.parametrize("form", ALL_FORMATS)
def test_arrays_take_what_a_plan_counts(form: str) -> None:
    found = arrays("w", form, (12, 512))
    assert sum(array.nbytes for array in found) == weight_bytes(form, (12, 512))


@pytest.mark.parametrize(
    ("form", "shape"),
    [
        ("q4_0", (3, 33)),
        ("q4_0", (64,)),
        ("q3_k", (1, 256)),
        ("f32", (0, 4)),
        ("f32", (4, 1 << 30)),
        ("e4m3/0x4", (4, 4)),
        ("e4m3/4x4/", (4, 4)),
        ("e4m3/4x" + "9" * 11, (4, 4)),
    ],
)
def test_what_is_no_matrix_is_refused(form: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(UnsupportedModel, match="tensor w"):
        arrays("w", form, shape)


def test_another_backend_is_named(for_cards: Path, pristine: Path) -> None:
    with pytest.raises(BuildMismatch, match="built for the cuda backend, and native is to load it") as caught:
        open_build(for_cards, backend="native")
    assert caught.value.source is not None
    with pytest.raises(BuildMismatch, match="built for the native backend, and cuda is to load it"):
        open_build(pristine, backend="cuda")


@settings(max_examples=120)
@given(data=st.data())
def test_any_changed_value_of_the_tensors_is_refused(playground: Any, data: st.DataObject) -> None:
    folder = playground()
    content = json.loads((folder / TENSORS).read_bytes())
    way = data.draw(st.sampled_from(leaves(content)))
    new = changed(content, way, data.draw(st.one_of(odd, st.sampled_from(["low", "data", "e4m3/1x64", "matrix"]))))
    (folder / TENSORS).write_text(json.dumps(new))
    reseal(folder)
    with pytest.raises(BuildMismatch):
        open_build(folder)  # written by another hand, it has other bytes even where the value is the same


@settings(max_examples=40)
@given(backend=st.one_of(odd, st.sampled_from(["native", "tpu", "../cuda", "CUDA", "cuda\0"])))
def test_any_other_backend_in_the_manifest_is_refused(playground: Any, backend: Any) -> None:
    folder = playground()
    reseal(folder, backend=backend)
    with pytest.raises(BefitError) as caught:
        open_build(folder)
    assert isinstance(caught.value, BuildMismatch)
