"""Each op against its formula, written out in plain Python loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from befit.backends.reference import ops
from befit.models.program import Rope


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_rms_norm_divides_by_the_root_mean_square():
    x, weight = random(3, 8), random(8, seed=1)
    for row, out in zip(x, ops.rms_norm(x, weight, 1e-3), strict=True):
        rms = math.sqrt(sum(float(v) ** 2 for v in row) / 8 + 1e-3)
        np.testing.assert_allclose(out, row / rms * weight, rtol=1e-5)


def test_layer_norm_has_mean_zero_and_variance_one_before_its_weight():
    x = random(3, 64) * 5 + 2
    plain = ops.layer_norm(x, np.ones(64, np.float32), None, 1e-6)
    np.testing.assert_allclose(plain.mean(axis=1), 0, atol=1e-5)
    np.testing.assert_allclose(plain.var(axis=1), 1, atol=1e-4)
    weight, bias = random(64, seed=1), random(64, seed=2)
    np.testing.assert_allclose(ops.layer_norm(x, weight, bias, 1e-6), plain * weight + bias, atol=1e-5)


@pytest.mark.parametrize(
    ("fn", "formula"),
    [
        ("silu", lambda x: x / (1 + math.exp(-x))),
        ("gelu_erf", lambda x: x / 2 * (1 + math.erf(x / math.sqrt(2)))),
        ("gelu_tanh", lambda x: x / 2 * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))),
    ],
)
def test_activations(fn, formula):
    x = np.linspace(-8, 8, 101, dtype=np.float32)
    np.testing.assert_allclose(ops.activation(x, fn), [formula(float(v)) for v in x], atol=1e-6)


@pytest.mark.parametrize("interleaved", [True, False])
def test_rotation_is_multiplication_by_a_unit_complex_number(interleaved):
    rope = Rope(dim=8, inv_freq=(1.0, 0.5, 0.25, 0.125), interleaved=interleaved, scale=1.25)
    x, positions = random(5, 2, 12), np.array([0, 1, 7, 100, 5000], np.int32)
    out = ops.rotate(x, positions, rope)
    np.testing.assert_array_equal(out[..., 8:], x[..., 8:])  # beyond rope.dim nothing turns
    for t, p in enumerate(positions):
        for i, freq in enumerate(rope.inv_freq):
            a, b = (2 * i, 2 * i + 1) if interleaved else (i, i + 4)
            turned = (x[t, :, a] + 1j * x[t, :, b]) * np.exp(1j * p * freq) * 1.25
            np.testing.assert_allclose(out[t, :, a] + 1j * out[t, :, b], turned, atol=1e-5)


@settings(max_examples=25)
@given(
    past=st.integers(0, 12),
    new=st.integers(1, 6),
    groups=st.sampled_from([(1, 1), (4, 2), (3, 1), (4, 4)]),
    window=st.sampled_from([None, 1, 2, 5, 100]),
)
def test_attention_is_a_softmax_over_the_positions_in_sight(past, new, groups, window):
    n_heads, n_kv_heads = groups
    n, d, scale = past + new, 8, 0.3
    q, k, v = random(new, n_heads, d), random(n, n_kv_heads, d, seed=1), random(n, n_kv_heads, d, seed=2)
    out = ops.attend(q, k, v, np.arange(past, n, dtype=np.int32), scale, window)
    for i in range(new):
        p = past + i
        seen = [t for t in range(n) if t <= p and (window is None or t > p - window)]
        for head in range(n_heads):
            kv = head // (n_heads // n_kv_heads)
            weights = [math.exp(scale * float(q[i, head] @ k[t, kv])) for t in seen]
            expected = sum(w * v[t, kv] for w, t in zip(weights, seen, strict=True)) / sum(weights)
            np.testing.assert_allclose(out[i, head], expected, atol=1e-5)
