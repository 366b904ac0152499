"""Folders that nobody's befit wrote: an error of befit's own, or a model that loads; never anything else."""

from __future__ import annotations

import contextlib
import copy as copying
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from befit.config import EngineOptions
from befit.engine.load import load_model
from befit.errors import BefitError, BuildMismatch
from befit.prepared.manifest import ARRAYS, FILES, METADATA, TENSORS, _digest, read_manifest
from befit.prepared.read import open_build
from befit.store.layout import BUILD_MANIFEST

from .conftest import reseal

SMALL = EngineOptions(ctx=64, kv_tokens=64, threads=1)


@pytest.fixture(scope="module")
def playground(pristine: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """playground() -> the same folder each time, as good as new, with a source that is gone."""
    folder = tmp_path_factory.mktemp("hostile") / "built"

    def renew() -> Path:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(pristine, folder)
        sources = json.loads((folder / BUILD_MANIFEST).read_bytes())["source"]
        reseal(folder, source=[{**sources[0], "path": "/nowhere/m.gguf"}])
        return folder

    return renew


def outcome(folder: Path) -> BefitError | None:
    try:
        load_model(str(folder), SMALL).close()
    except BefitError as error:
        return error
    return None


@settings(max_examples=80)
@given(data=st.data())
def test_any_changed_byte_is_found_or_is_a_weight(playground: Any, data: st.DataObject) -> None:
    folder = playground()
    path = folder / data.draw(st.sampled_from([BUILD_MANIFEST, *FILES]))
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] = data.draw(st.integers(0, 255).filter(lambda byte: byte != content[at]))
    path.write_bytes(content)
    found = outcome(folder)
    assert found is None if path.name == "weights.bin" else isinstance(found, BuildMismatch)


@settings(max_examples=100)
@given(data=st.data())
def test_files_cut_or_grown(playground: Any, data: st.DataObject) -> None:
    folder = playground()
    path = folder / data.draw(st.sampled_from([BUILD_MANIFEST, *FILES]))
    content = path.read_bytes()
    cut = data.draw(st.integers(0, len(content) - 2))
    path.write_bytes(data.draw(st.sampled_from([content[:cut], content + b"1", content + content])))
    assert isinstance(outcome(folder), BuildMismatch)


numbers = st.sampled_from([-1, 0, 1, 15, 64, 4096, 1 << 30, 1 << 31, 1 << 62, 1 << 63, 1 << 64, 10**30])
odd = st.one_of(
    numbers, st.none(), st.booleans(), st.floats(), st.text(max_size=5), st.just([]), st.just({}), st.just([1, 2])
)


def leaves(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every value inside."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(way for key, item in inside for way in leaves(item, (*at, key)))]


def changed(value: Any, way: tuple[Any, ...], to: Any) -> Any:
    if not way:
        return to
    value = copying.copy(value)
    value[way[0]] = changed(value[way[0]], way[1:], to)
    return value


@settings(max_examples=120)
@given(data=st.data())
def test_any_changed_value_under_good_digests(playground: Any, data: st.DataObject) -> None:
    folder = playground()
    path = folder / data.draw(st.sampled_from([TENSORS, METADATA]))
    content = json.loads(path.read_bytes())
    way = data.draw(st.sampled_from(leaves(content)))
    path.write_text(json.dumps(changed(content, way, data.draw(odd))))
    reseal(folder)
    outcome(folder)


@settings(max_examples=100)
@given(data=st.data())
def test_any_changed_value_of_the_manifest(playground: Any, data: st.DataObject) -> None:
    folder = playground()
    content = json.loads((folder / BUILD_MANIFEST).read_bytes())
    content.pop("sha256")
    way = data.draw(st.sampled_from(leaves(content)))
    new = changed(content, way, data.draw(odd))
    if way and isinstance(new, dict):
        new = {**new, "sha256": _digest(new)}
    (folder / BUILD_MANIFEST).write_text(json.dumps(new))
    with contextlib.suppress(BuildMismatch):
        read_manifest(folder)
    outcome(folder)


@settings(max_examples=100)
@given(data=st.data())
def test_any_vocabulary_bytes_under_good_digests(playground: Any, data: st.DataObject) -> None:
    folder = playground()
    content = bytearray((folder / ARRAYS).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (folder / ARRAYS).write_bytes(content)
    reseal(folder)
    outcome(folder)


def test_swapped_tensors_are_refused(copy: Callable[[], Path]) -> None:
    folder = copy()
    sections = json.loads((folder / TENSORS).read_bytes())
    one, two = (i for i, section in enumerate(sections) if "attn_k.weight" in section["name"])
    sections[one]["offset"], sections[two]["offset"] = sections[two]["offset"], sections[one]["offset"]
    (folder / TENSORS).write_text(json.dumps(sections))
    reseal(folder)
    with pytest.raises(BuildMismatch, match="does not say what this befit works out"):
        open_build(folder)


@pytest.mark.parametrize("target", ["/dev/zero", "/proc/self/mem", "."])
def test_a_source_that_is_no_file_is_not_read(copy: Callable[[], Path], target: str) -> None:
    folder = copy()
    sources = json.loads((folder / BUILD_MANIFEST).read_bytes())["source"]
    reseal(folder, source=[{**sources[0], "path": target}])
    with pytest.raises(BuildMismatch, match="has changed"):
        open_build(folder)
    assert isinstance(outcome(folder), BefitError)


def test_a_huge_small_file_is_not_read(copy: Callable[[], Path]) -> None:
    folder = copy()
    fields = json.loads((folder / BUILD_MANIFEST).read_bytes())
    reseal(folder, files={**fields["files"], METADATA: {"size": 1 << 40, "sha256": "0" * 64}})
    with open(folder / METADATA, "ab") as file:
        file.truncate(1 << 40)
    with pytest.raises(BuildMismatch, match="at most"):
        open_build(folder)
