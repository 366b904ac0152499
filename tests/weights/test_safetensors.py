"""Safetensors files: what the header lists lies in the file, all of it, and nothing else does."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from befit.errors import CorruptFile, ModelError, ModelNotFound
from befit.weights.safetensors import read_safetensors
from support.hf import write_safetensors


def write(path: Path, header: dict[str, Any], data: bytes) -> Path:
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def entry(begin: int, end: int) -> dict[str, Any]:
    return {"dtype": "U8", "shape": [end - begin], "data_offsets": [begin, end]}


def test_tensors_are_views_of_the_file(tmp_path: Path) -> None:
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    odd = np.arange(3, dtype=np.uint8)
    path = write_safetensors(tmp_path / "a.safetensors", {"odd": ("U8", odd), "values": ("F32", values)})
    file = read_safetensors(path)
    np.testing.assert_array_equal(file.raw("values").view(np.float32).reshape(2, 3), values)
    assert np.shares_memory(file.raw("odd"), file.bytes)
    assert not file.raw("odd").flags.writeable
    file.release("values")
    np.testing.assert_array_equal(file.raw("values").view(np.float32).reshape(2, 3), values)


@pytest.mark.parametrize(
    ("header", "size", "text"),
    [
        ({"a": entry(0, 4), "b": entry(5, 8)}, 8, r"'b' begins at byte 5 of the data and the one before it ends at 4"),
        ({"a": entry(0, 4), "b": entry(3, 8)}, 8, r"'b' begins at byte 3"),
        ({"a": entry(1, 4)}, 4, r"'a' begins at byte 1"),
        ({"a": entry(0, 4)}, 3, r"the tensors end at byte \d+ and the file has \d+ bytes"),
        ({"a": entry(0, 4)}, 5, r"the tensors end at byte \d+ and the file has \d+ bytes"),
        ({"a": entry(0, 1 << 62)}, 5, r"the tensors end at byte"),
    ],
    ids=["hole", "overlap", "hole at the start", "cut", "too long", "huge"],
)
def test_places_that_cannot_be(tmp_path: Path, header: dict[str, Any], size: int, text: str) -> None:
    with pytest.raises(CorruptFile, match=text):
        read_safetensors(write(tmp_path / "a.safetensors", header, bytes(size)))


def test_what_is_no_safetensors_file(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    with pytest.raises(ModelNotFound):
        read_safetensors(path)
    path.write_bytes(b"")
    with pytest.raises(CorruptFile, match="empty"):
        read_safetensors(path)
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(CorruptFile, match="git lfs pull"):
        read_safetensors(path)
    path.write_bytes((1 << 20).to_bytes(8, "little") + b"{")
    with pytest.raises(CorruptFile, match=r"should end at byte 1048584 and the file has 9 bytes"):
        read_safetensors(path)
    with pytest.raises(ModelError):
        read_safetensors(tmp_path)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(head=st.binary(max_size=60), length=st.integers(0, 80), tail=st.binary(max_size=40))
def test_any_bytes_are_a_file_or_corrupt(tmp_path: Path, head: bytes, length: int, tail: bytes) -> None:
    path = tmp_path / "any.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + head + tail)
    with suppress(ModelError):
        file = read_safetensors(path)
        for name in file.entries:
            file.raw(name)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    places=st.lists(st.tuples(st.integers(-2, 20), st.integers(-2, 20)), max_size=4),
    size=st.integers(0, 24),
)
def test_whatever_is_read_lies_inside_the_file(tmp_path: Path, places: list[tuple[int, int]], size: int) -> None:
    header = {f"t{i}": entry(*place) for i, place in enumerate(places)}
    path = write(tmp_path / "any.safetensors", header, bytes(size))
    try:
        file = read_safetensors(path)
    except CorruptFile:
        return
    assert sum(each.nbytes for each in file.entries.values()) == size
    assert all(file.raw(name).nbytes == each.nbytes for name, each in file.entries.items())
