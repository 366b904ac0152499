"""Paged attention of each instruction set against its plain NumPy twin, and the promise that no way of cutting the work
changes a bit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from befit.backends.native import _native

CHUNK = 256  # positions of one partial result
KINDS = ("f16", "int8")


def hadamard(x):
    """x times a Hadamard matrix over the largest power of two in its width, in the kernel's order of additions."""
    width = x.shape[-1]
    half = 1
    while width % (2 * half) == 0:
        pairs = x.reshape(*x.shape[:-1], -1, 2, half)
        a, b = pairs[..., 0, :], pairs[..., 1, :]
        x = np.stack([a + b, a - b], -2).reshape(x.shape)
        half *= 2
    return x, half


def rounded(x):
    """Vectors as 8-bit integers with one scale each."""
    peak = np.abs(x).max(-1, keepdims=True)
    return np.rint(x * (np.float32(127) / peak)) * (peak / np.float32(127))


def twin(kind, q, k, v, heads, kv_heads, window, scale):
    """softmax(scale * q k) v in float64, over keys and values rounded as the cache rounds them."""
    n, share = len(q), heads // kv_heads
    q, k, v = (x.reshape(n, h, -1) for x, h in ((q, heads), (k, kv_heads), (v, kv_heads)))
    if kind == "f16":
        k, v = (x.astype(np.float16) for x in (k, v))
    else:
        k, size = hadamard(k)
        q = hadamard(q)[0] / size
        k, v = rounded(k), rounded(v)
    k, v = (np.repeat(x.astype(np.float64), share, 1) for x in (k, v))
    scores = np.einsum("thd,shd->hts", q.astype(np.float64), k) * scale
    age = np.arange(n)[:, None] - np.arange(n)
    scores[:, (age < 0) | (age >= (window or n))] = -np.inf
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("hts,shd->thd", weights, v).reshape(n, -1)


def inputs(seed, n, heads, kv_heads, dim, spread=1.0):
    rng = np.random.default_rng(seed)
    q, k, v = (rng.standard_normal((n, h * dim)).astype(np.float32) for h in (heads, kv_heads, kv_heads))
    k[:, ::7] *= spread
    table = rng.permutation(n // 16 + 3)[: n // 16 + 1].tolist()
    return q, k, v, table


def cut(rng, n, largest):
    """Random steps that add up to n."""
    steps = []
    while n:
        steps.append(int(rng.integers(1, min(n, largest) + 1)))
        n -= steps[-1]
    return steps


@pytest.mark.parametrize("isa", _native.isas())
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=8)
@given(
    n=st.one_of(st.integers(1, 70), st.integers(CHUNK - 20, CHUNK + 20)),
    kv_heads=st.integers(1, 2),
    share=st.sampled_from([1, 2, 3, 4, 5, 6, 7, 8, 9, 14, 71]),
    dim=st.sampled_from([32, 64, 96, 128, 256]),
    window=st.sampled_from([0, 1, 24, 64, 300]),
    threads=st.integers(1, 3),
    spread=st.sampled_from([1.0, 20.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_attention_equals_its_numpy_twin(isa, kind, n, kv_heads, share, dim, window, threads, spread, seed):
    if share == 71:
        kv_heads, dim = 1, min(dim, 64)
    heads, scale = kv_heads * share, dim**-0.5
    q, k, v, table = inputs(seed, n, heads, kv_heads, dim, spread)
    got = _native.attention(isa, threads, kind, heads, kv_heads, window, scale, q, k, v, table, [n])
    expected = twin(kind, q, k, v, heads, kv_heads, window, scale)
    # 16-bit queries and weights: each score is within 2^-16 of the sum of its products' sizes.
    assert np.abs(got - expected).max() <= (2e-4 if kind == "int8" else 3e-5) * spread


@pytest.mark.parametrize("isa", _native.isas())
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=5)
@given(
    n=st.sampled_from([3, 40, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 5]),
    share=st.sampled_from([1, 3, 7, 8, 15]),
    dim=st.sampled_from([32, 64, 96, 128]),
    window=st.sampled_from([0, 40, 300]),
    seed=st.integers(0, 2**32 - 1),
)
def test_threads_steps_and_pages_change_no_bit(isa, kind, n, share, dim, window, seed):
    rng = np.random.default_rng(seed)
    q, k, v, table = inputs(seed, n, 2 * share, 2, dim)

    def run(threads, table, steps):
        return _native.attention(isa, threads, kind, 2 * share, 2, window, 0.2, q, k, v, table, steps)

    whole = run(1, table, [n])
    assert np.array_equal(run(2, table, [n]), whole)
    assert np.array_equal(run(5, rng.permutation(table).tolist(), cut(rng, n, n)), whole)
    few = max(1, n - 20)
    assert np.array_equal(run(3, table[::-1], [few] + [1] * (n - few)), whole)


@pytest.mark.parametrize("isa", _native.isas())
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_finite_stays_with_its_own_query(isa, kind):
    q, k, v, table = inputs(0, 30, 2, 1, 32)
    q[3, :32] = np.nan
    clean = _native.attention(isa, 1, kind, 2, 1, 0, 0.2, np.nan_to_num(q), k, v, table, [30])
    got = _native.attention(isa, 1, kind, 2, 1, 0, 0.2, q, k, v, table, [30])
    assert np.isnan(got[3, :32]).all()
    got[3, :32] = clean[3, :32]
    assert np.array_equal(got, clean)
    k[5], v[6] = np.inf, np.nan  # from a request that fails: what it stores must not reach others
    assert np.isfinite(_native.attention(isa, 1, kind, 2, 1, 0, 0.2, np.nan_to_num(q), k, v, table, [30])).all()


@pytest.mark.parametrize("kind", KINDS)
def test_large_scores_do_not_overflow(kind):
    q, k, v, table = inputs(1, 40, 1, 1, 64)
    got = _native.attention(_native.isas()[0], 1, kind, 1, 1, 0, 1.0, q * 1000, k * 10, v, table, [40])
    assert np.isfinite(got).all()
    assert np.abs(got).max() <= np.abs(v).max() * 1.01


def test_zeros_are_kept_as_zeros():
    q, k, v, table = inputs(2, 20, 1, 1, 32)
    for kind in KINDS:
        got = _native.attention("generic", 1, kind, 1, 1, 0, 0.2, q, k * 0, v * 0, table, [20])
        assert not got.any()
