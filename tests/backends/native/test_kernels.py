"""Each matrix kernel of each instruction set against its plain NumPy twin, on random shapes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from befit.backends.native import _native
from befit.bench.kernels import twin
from befit.bench.random_weights import random_matrix

QUANTISED = ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q4_k", "q5_k", "q6_k")
DENSE = ("f32", "f16", "bf16")


def raw_bytes(tensor):
    data = tensor.raw if hasattr(tensor, "raw") else tensor.data
    return np.ascontiguousarray(data).view(np.uint8).reshape(-1)


@pytest.mark.parametrize("isa", _native.isas())
@pytest.mark.parametrize("kind", QUANTISED + DENSE)
@settings(max_examples=12)
@given(
    rows=st.integers(1, 70),
    blocks=st.integers(1, 3),
    tokens=st.integers(1, 70),
    seed=st.integers(0, 2**32 - 1),
)
def test_matmul_equals_its_numpy_twin(isa, kind, rows, blocks, tokens, seed):
    rng = np.random.default_rng(seed)
    columns = blocks * (256 if kind.endswith("_k") else 32)
    weight = random_matrix(rng, "w", rows, columns, kind)
    x = rng.standard_normal((tokens, columns)).astype(np.float32)
    got = _native.matmul(isa, raw_bytes(weight), rows, columns, kind, x)
    largest = np.abs(x).max() * np.abs(weight.dequantize()).sum(1).max()
    assert np.abs(got - twin(weight, x)).max() <= 2e-6 * largest


@pytest.mark.parametrize("kind", QUANTISED + DENSE)
def test_rows_read_for_lookups_are_exact(kind):
    weight = random_matrix(np.random.default_rng(1), "w", 9, 512, kind)
    assert np.array_equal(_native.dequantize(raw_bytes(weight), 9, 512, kind), weight.dequantize())


@pytest.mark.parametrize("isa", _native.isas())
@pytest.mark.parametrize("kind", QUANTISED + DENSE)
def test_a_token_gets_the_same_bits_in_any_company(isa, kind):
    rng = np.random.default_rng(2)
    weight = random_matrix(rng, "w", 48, 256, kind)
    x = rng.standard_normal((37, 256)).astype(np.float32)
    together = _native.matmul(isa, raw_bytes(weight), 48, 256, kind, x)
    for first, last in [(0, 1), (3, 5), (7, 10), (11, 16), (16, 22), (20, 27), (29, 37)]:
        part = _native.matmul(isa, raw_bytes(weight), 48, 256, kind, np.ascontiguousarray(x[first:last]))
        assert np.array_equal(part, together[first:last])


@pytest.mark.parametrize("kind", [kind for kind in QUANTISED if kind != "q8_0"])
def test_every_instruction_set_gives_the_same_bits(kind):
    """Sums of integers are exact, so neither the order nor the instruction shows."""
    rng = np.random.default_rng(4)
    weight = random_matrix(rng, "w", 37, 1280, kind)
    x = rng.standard_normal((23, 1280)).astype(np.float32)
    results = [_native.matmul(isa, raw_bytes(weight), 37, 1280, kind, x) for isa in _native.isas()]
    assert all(np.array_equal(result, results[0]) for result in results)


@pytest.mark.parametrize("isa", _native.isas())
def test_nan_and_infinity_in_an_activation_reach_the_result(isa):
    weight = random_matrix(np.random.default_rng(3), "w", 16, 64, "q4_0")
    for poison in (np.nan, np.inf, -np.inf):
        x = np.ones((1, 64), np.float32)
        x[0, 40] = poison
        assert not np.isfinite(_native.matmul(isa, raw_bytes(weight), 16, 64, "q4_0", x)).any()


@pytest.mark.parametrize("isa", _native.isas())
def test_the_largest_floats_are_no_zeros(isa):
    weight = random_matrix(np.random.default_rng(3), "w", 16, 64, "q4_0")
    x = np.zeros((1, 64), np.float32)
    x[0, 5] = 1
    small, large = (_native.matmul(isa, raw_bytes(weight), 16, 64, "q4_0", x * by) for by in (1, 2e38))
    assert np.allclose(large / 2e38, small, rtol=1e-3)


def test_a_wrong_byte_count_is_refused():
    with pytest.raises(ValueError, match="matrix bytes: 10, expected 36"):
        _native.matmul("generic", np.zeros(10, np.uint8), 2, 32, "q4_0", np.zeros((1, 32), np.float32))


def test_an_unknown_instruction_set_is_refused_with_what_there_is():
    with pytest.raises(ValueError, match=r"'sse9' is not available; this machine runs: .*generic"):
        _native.matmul("sse9", np.zeros(18, np.uint8), 1, 32, "q4_0", np.zeros((1, 32), np.float32))
