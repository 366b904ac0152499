"""Damaged and hostile GGUF files: a typed error that says what and where, in little time and memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from struct import pack
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from befit.errors import BefitError, CorruptFile, UnsupportedModel
from befit.weights import gguf_header
from befit.weights.gguf import GGUFFile

HUGE = 2**64 - 1
F32, Q4_0 = 0, 2


def read_everything(path: Path) -> None:
    """Open a file and touch all that is in it."""
    with GGUFFile.open(path) as file:
        for key in file.metadata:
            try:
                file.metadata[key]
            except CorruptFile:
                continue
        for name, info in file.infos.items():
            assert info.start + info.nbytes <= file.size
            try:
                file.tensors[name].dequantize()
            except UnsupportedModel:
                continue


@pytest.fixture(scope="session")
def outcome(tmp_path_factory: Any) -> Callable[[bytes], BefitError | None]:
    """Write bytes to a file and read it all: the error, or None. Anything but a BefitError, or much memory, fails."""
    folder = tmp_path_factory.mktemp("hostile")
    written = 0

    def outcome(content: bytes) -> BefitError | None:
        nonlocal written
        written += 1
        path = folder / f"{written}.gguf"
        path.write_bytes(content)
        found = None
        tracemalloc.start()
        try:
            read_everything(path)
        except BefitError as error:
            found = error
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            path.unlink()
        assert peak < (1 << 20) + 64 * len(content)
        assert found is None or (str(path) in found.message and len(found.message) < 1000)
        return found

    return outcome


@pytest.mark.parametrize("version", [2, 3])
@given(data=st.data())
@settings(max_examples=150, deadline=10_000)
def test_changed_bytes(gguf_bytes: Any, outcome: Any, version: int, data: st.DataObject) -> None:
    content = bytearray(gguf_bytes.small(version))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(4, len(content) - 1))
        patch = data.draw(
            st.one_of(st.binary(min_size=1, max_size=8), st.sampled_from([b"\xff" * 8, bytes(8), pack("<Q", 1 << 40)]))
        )
        content[at : at + len(patch)] = patch
    outcome(bytes(content))


@pytest.mark.parametrize("version", [2, 3])
def test_every_truncation(gguf_bytes: Any, outcome: Any, version: int) -> None:
    content = gguf_bytes.small(version)
    assert outcome(content) is None
    for length in range(len(content)):
        assert isinstance(outcome(content[:length]), CorruptFile), length


@given(data=st.data())
@settings(max_examples=60, deadline=10_000)
def test_inserted_and_deleted_bytes(gguf_bytes: Any, outcome: Any, data: st.DataObject) -> None:
    content = gguf_bytes.small()
    start = data.draw(st.integers(0, len(content)))
    stop = data.draw(st.integers(start, min(len(content), start + 40)))
    outcome(content[:start] + data.draw(st.binary(max_size=40)) + content[stop:])


@given(n_tensors=st.integers(0, HUGE), n_keys=st.integers(0, HUGE), rest=st.binary(max_size=400))
@settings(max_examples=60, deadline=10_000)
def test_random_headers(outcome: Any, n_tensors: int, n_keys: int, rest: bytes) -> None:
    outcome(b"GGUF" + pack("<IQQ", 3, n_tensors, n_keys) + rest)
    outcome(b"GGUF" + pack("<IQQ", 2, n_tensors % 4, n_keys % 4) + rest)


def test_hostile_metadata(gguf_bytes: Any, outcome: Any) -> None:
    def error(*keys: Any, **fields: Any) -> str:
        found = outcome(gguf_bytes.build([gguf_bytes.Key(*key) for key in keys], **fields))
        assert isinstance(found, CorruptFile), found
        return found.message

    array = gguf_header._ARRAY
    assert f"claims {HUGE} metadata keys" in error(n_keys=HUGE)
    assert "claims 1000 metadata keys, which need at least 13000 bytes where 0 are left" in error(n_keys=1000)
    assert f"claims {HUGE} tensors" in error(n_tensors=HUGE)
    assert "'k' at byte 38 of 52: the key is there twice" in error(("k", "u8", 1), ("k", "u8", 2))
    assert "text that is not UTF-8" in error((b"\xff\xfe", "u8", 1))
    assert "a name of 2000 bytes" in error(("k" * 2000, "u8", 1))
    assert "value type 13" in error(("k", 13, b""))
    assert "a bool with the value 2" in error(("k", "bool", 2))
    assert "array element type 77" in error(("k", array, pack("<IQ", 77, 1)))
    for kind in (0, 6, 8, 9, 12):
        assert "array elements" in error(("k", array, pack("<IQ", kind, HUGE)))
        assert "array elements" in error(("k", array, pack("<IQ", kind, 1000)))
    assert "string 1 of 2 would start at byte" in error(("k", array, pack("<IQQQ", 8, 2, HUGE, 0)))
    assert "the last of 2 strings would end" in error(("k", array, pack("<IQQQ", 8, 2, 0, HUGE)))
    assert "nested more than 4 deep" in error(("k", array, pack("<IQ", array, 1) * 200 + bytes(16)))
    for value in (0, 1, 4, 12, 33):
        assert f"'general.alignment' is {value}, " in error(("general.alignment", "u32", value))
    assert "'general.alignment' is text" in error(("general.alignment", "str", "32"))
    assert "'general.alignment' is an array" in error(("general.alignment", ("array", "u8"), [32]))
    assert "'split.count' is -1" in error(("split.count", "i32", -1))


def test_a_string_longer_than_the_file(gguf_bytes: Any, outcome: Any) -> None:
    found = outcome(gguf_bytes.build(n_keys=1) + gguf_bytes.text("key") + pack("<IQ", 8, HUGE) + b"text")
    assert f"metadata key 'key' at byte 47 of 51: needs {HUGE} bytes where 4 are left" in found.message


def test_bad_bools_in_an_array_are_an_error_on_access(gguf_bytes: Any, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf_bytes.build([gguf_bytes.Key("k", ("array", "bool"), [0, 1, 7])]))
    with GGUFFile.open(path) as file, pytest.raises(CorruptFile, match="a bool with the value 7"):
        file.metadata["k"]


def test_arrays_have_a_budget(gguf_bytes: Any, outcome: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """All arrays of a file count together, so that walking them takes bounded time whatever the size of the file."""
    monkeypatch.setattr(gguf_header, "MAX_ARRAY_ITEMS", 10)
    monkeypatch.setattr(gguf_header, "MAX_INNER_ARRAYS", 5)
    key = gguf_bytes.Key
    words, nested = ("array", "str"), ("array", ("array", "u8"))
    assert outcome(gguf_bytes.build([key("a", words, [""] * 5), key("b", words, [""] * 5)])) is None
    assert (
        "more than the 5" in outcome(gguf_bytes.build([key("a", words, [""] * 5), key("b", words, [""] * 6)])).message
    )
    assert "more than the 5" in outcome(gguf_bytes.build([key("a", nested, [[]] * 6)])).message


def test_values_have_a_largest_size(gguf_bytes: Any, outcome: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_header, "MAX_VALUE_BYTES", 20)
    key = gguf_bytes.Key
    assert outcome(gguf_bytes.build([key("text", "str", "x" * 20), key("array", ("array", "u8"), [1] * 8)])) is None
    for large in (key("k", "str", "x" * 21), key("k", ("array", "u8"), [1] * 9), key("k", ("array", "str"), ["x"])):
        assert "bytes, more than the 20 that befit accepts" in outcome(gguf_bytes.build([large])).message


def test_hostile_tensors(gguf_bytes: Any, outcome: Any) -> None:
    def error(*entries: Any) -> str:
        found = outcome(gguf_bytes.build([], [gguf_bytes.Entry(*entry) for entry in entries]))
        assert isinstance(found, CorruptFile), found
        return found.message

    assert "tensor 't' at byte 37 of 128: dimensions [4, 0]" in error(("t", [4, 0], F32, bytes(32)))
    assert "0 dimensions" in error(("t", [], F32, bytes(4)))
    assert "5 dimensions" in error(("t", [1] * 5, F32, bytes(4)))
    assert "48 columns, which is not a multiple of Q4_0's block of 32" in error(("t", [48, 1], Q4_0, bytes(27)))
    assert "past the end" in error(("t", [2**62, 2**62, 2**62, 2**62], F32, bytes(32)))
    assert "past the end" in error(("t", [2**63, 2], F32, bytes(32)))
    assert "past the end" in error(("t", [2**32, 2**32], 999, b""))
    assert "past the end" in error(("t", [8], F32, bytes(31)))
    assert "past the end" in error(("t", [8], F32, bytes(32), 2**64 - 32))
    assert "offset 4 is not a multiple of the alignment 32" in error(("t", [1], F32, bytes(64), 4))
    assert "the tensor is there twice" in error(("t", [8], F32, bytes(32)), ("t", [8], F32, bytes(32)))
    assert "overlaps tensor 'a', bytes" in error(("a", [16], F32, bytes(64)), ("b", [8], F32, bytes(32), 32))
    assert "overlaps" in error(("a", [16], 999, bytes(64)), ("b", [8], F32, bytes(32), 0))
    assert "text that is not UTF-8" in error((b"\xff", [8], F32, bytes(32)))


@pytest.mark.parametrize("version", [0, 1, 4, 2**31, 3 << 24, 2 << 24])
def test_versions_that_befit_does_not_read(gguf_bytes: Any, outcome: Any, version: int) -> None:
    found = outcome(gguf_bytes.build(version=version))
    assert isinstance(found, UnsupportedModel)
    assert ("big-endian" if version in (3 << 24, 2 << 24, 2**31) else f"GGUF version {version}") in found.message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "the file is empty (0 bytes)"),
        (b"GGU", "it begins with b'GGU'"),
        (b"hello", "it begins with b'hell'"),
        (b"<html><body>404</body></html>", "looks like a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "looks like a Git LFS pointer"),
        (pack("<Q", 2) + b'{"a":1}', "looks like a safetensors file"),
        (b"PK\x03\x04rest", "looks like a zip archive"),
    ],
)
def test_files_that_are_no_gguf(outcome: Any, content: bytes, words: str) -> None:
    found = outcome(content)
    assert isinstance(found, CorruptFile)
    assert words in found.message
