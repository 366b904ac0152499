"""Safetensors headers from untrusted bytes."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from befit.errors import CorruptFile
from befit.weights.safetensors_header import TensorEntry, header_length, parse_header


def header(**tensors: object) -> bytes:
    return json.dumps({"__metadata__": {"format": "pt"}, **tensors}).encode()


def test_a_header() -> None:
    text = header(a={"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]})
    assert parse_header(text, "x") == {"a": TensorEntry("BF16", (2, 3), 0, 12)}
    assert header_length(len(text).to_bytes(8, "little"), "x") == len(text)


@pytest.mark.parametrize("head", [b"", b"\x01", (1).to_bytes(8, "little"), (1 << 40).to_bytes(8, "little")])
def test_a_length_that_cannot_be(head: bytes) -> None:
    with pytest.raises(CorruptFile, match="safetensors allows"):
        header_length(head, "x")


@pytest.mark.parametrize(
    "tensor",
    [
        7,
        {},
        {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 11]},
        {"dtype": "BF16", "shape": [2, 3], "data_offsets": [12, 0]},
        {"dtype": "BF16", "shape": [-2, -3], "data_offsets": [0, 12]},
        {"dtype": "BF16", "shape": [2, 3.0], "data_offsets": [0, 12]},
        {"dtype": "BF17", "shape": [2, 3], "data_offsets": [0, 12]},
        {"dtype": ["BF16"], "shape": [2, 3], "data_offsets": [0, 12]},
        {"dtype": "BF16", "shape": 6, "data_offsets": [0, 12]},
        {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 6, 12]},
    ],
)
def test_a_tensor_that_is_none(tensor: object) -> None:
    with pytest.raises(CorruptFile, match="'a'"):
        parse_header(header(a=tensor), "x")


@given(st.binary(max_size=200))
def test_any_bytes_are_a_header_or_corrupt(data: bytes) -> None:
    with suppress(CorruptFile):
        assert isinstance(parse_header(data, "x"), dict)
