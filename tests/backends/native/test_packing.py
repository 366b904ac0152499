"""Packed tiles are written to disk by `befit build`, so their bytes are an interface with a version."""

import hashlib

import numpy as np
import pytest

from befit.backends.native import _native
from support.tiny import random_matrix

KINDS = ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q4_k", "q5_k", "q6_k", "f32", "f16", "bf16")
LAYOUT = 2
DIGESTS = {
    "q4_0": "d89b93b7b5e78dc3",
    "q4_1": "b0bebb5d2e224a00",
    "q5_0": "8be35393d8f92765",
    "q5_1": "ba5dc5f291c4db17",
    "q8_0": "6aaf61b438026338",
    "q4_k": "0aa5e0387e3bd91e",
    "q5_k": "b568cb70475ebe9f",
    "q6_k": "fcb76d9216e7b49c",
    "f32": "ab2a0af984304b9a",
    "f16": "4774d4d01b4ac2c6",
    "bf16": "bcf757123a31549d",
}


def packed(kind, threads=2, rows=35, columns=512):
    weight = random_matrix(np.random.default_rng(7), "w", rows, columns, kind)
    data = weight.raw if hasattr(weight, "raw") else weight.data
    raw = np.ascontiguousarray(data).view(np.uint8).reshape(-1)
    return raw, _native.pack(raw, rows, columns, kind, threads)


@pytest.mark.parametrize("kind", KINDS)
def test_the_bytes_of_this_layout(kind):
    found = hashlib.sha256(packed(kind)[1]).hexdigest()[:16]
    assert (_native.packed_layout, found) == (LAYOUT, DIGESTS[kind]), (
        "the bytes of packed tiles have changed: raise kPackedLayout in native/core/kernels.hpp, and LAYOUT and the "
        "digests here, so that folders built before are built anew"
    )


@pytest.mark.parametrize("kind", KINDS)
def test_packing_does_not_depend_on_threads(kind):
    assert np.array_equal(packed(kind, 1)[1], packed(kind, 3)[1])


@pytest.mark.parametrize("kind", KINDS)
def test_sizes_are_known_before(kind):
    assert packed(kind)[1].nbytes == _native.packed_bytes(35, 512, kind)


def test_what_does_not_fit_is_refused(tmp_path):
    raw, tiles = packed("q4_0")
    model = _native.Model("generic", 1, "f16", 1, 1, 1)
    matrix = model.matrix(35, 512, "q4_0")
    with pytest.raises(ValueError, match="no whole tiles"):
        model.pack([(matrix, 0, raw[1:], "q4_0")])
    with pytest.raises(ValueError, match="is not of q4_1"):
        model.pack([(matrix, 0, packed("q4_1")[0], "q4_1")])
    with pytest.raises(ValueError, match="no matrix 5"):
        model.pack([(5, 0, raw, "q4_0")])
    with pytest.raises(ValueError, match="no matrix -1"):
        model.read(0, [(-1, 0)])
    path = tmp_path / "tiles"
    path.write_bytes(b"x" * 64 + tiles.tobytes())
    with open(path, "rb") as file:
        model.read(file.fileno(), [(matrix, 64)])
        with pytest.raises(RuntimeError, match="inside a matrix"):
            model.read(file.fileno(), [(matrix, 65)])
    with pytest.raises(RuntimeError, match="Bad file descriptor"):
        model.read(10**6, [(matrix, 0)])
    for rows, columns, kind in ((0, 32, "f32"), (1 << 30, 32, "f32"), (1, 33, "q4_0"), (1, 32, "q2_k")):
        with pytest.raises(ValueError, match=r"rows|format"):
            _native.packed_bytes(rows, columns, kind)
