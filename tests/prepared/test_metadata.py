"""Metadata beside its arrays: what goes in comes out, and what nobody put in is refused."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from befit.prepared.metadata import decode, encode
from befit.weights.gguf import GGUFFile

scalars = st.one_of(st.text(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(width=32))
dtypes = st.sampled_from(["|u1", "<i2", "<i4", "<u8", "<f4", "<f8", "|b1"])
arrays = st.builds(
    lambda values, dtype: np.array(values).astype(dtype), st.lists(st.integers(0, 127), max_size=9), dtypes
)
values = st.one_of(scalars, st.lists(st.text(), max_size=5), arrays, st.lists(arrays, max_size=3))


def same(a: Any, b: Any) -> bool:
    if isinstance(b, np.ndarray):
        return isinstance(a, np.ndarray) and a.dtype == b.dtype and np.array_equal(a, b)
    return type(a) is type(b) and (a == b or (a != a and b != b))


@given(st.dictionaries(st.text(), values, max_size=6))
def test_what_goes_in_comes_out(metadata: dict[str, Any]) -> None:
    found = decode(*encode(metadata))
    assert list(found) == list(metadata)
    for key, value in metadata.items():
        if isinstance(value, list) and any(isinstance(item, np.ndarray) for item in value):
            assert found[key] == [item.tolist() for item in value]  # nobody reads arrays of arrays by type
        else:
            assert same(found[key], value), key


def test_a_real_vocabulary(qwen_path: Any) -> None:
    with GGUFFile.open(qwen_path) as file:
        found = decode(*encode(file.metadata))
        assert list(found) == list(file.metadata)
        assert all(same(found[key], value) for key, value in file.metadata.items())
        assert len(found["tokenizer.ggml.merges"]) == 151_387


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ([], "not an object"),
        ({"k": None}, "no model file has"),
        ({"k": [[[[[[[1]]]]]]]}, "no model file has"),
        ({"k": 2**64}, "no model file has"),
        ({"k": {}}, "outside"),
        ({"k": {"as": "text", "items": 1, "at": 2, "bytes": 3}}, "outside"),
        ({"k": {"as": "text", "items": 1, "at": -1, "bytes": 1}}, "outside"),
        ({"k": {"as": "text", "items": True, "at": 0, "bytes": 4}}, "outside"),
        ({"k": {"as": "text", "items": 3, "at": 0, "bytes": 4}}, "2 strings instead of 3"),
        ({"k": {"as": "<i4", "items": 2, "at": 0, "bytes": 4}}, "2 items"),
        ({"k": {"as": "|O", "items": 0, "at": 0, "bytes": 0}}, "type"),
        ({"k": {"as": ["<i4"], "items": 1, "at": 0, "bytes": 4}}, "type"),
        ({"k": {"as": "|b1", "items": 4, "at": 0, "bytes": 4}}, "truth value"),
    ],
)
def test_what_nobody_wrote_is_refused(fields: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        decode(json.dumps(fields).encode(), b"a\0bc")


@given(st.binary(max_size=60), st.binary(max_size=20))
def test_any_bytes_are_refused_or_read(text: bytes, blob: bytes) -> None:
    with contextlib.suppress(ValueError):
        decode(text, blob)


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(ValueError, match="nested too deeply"):
        decode(b'{"k": ' + b"[" * 100_000, b"")
