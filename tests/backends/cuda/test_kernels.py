"""Each Triton kernel gives what a NumPy twin gives, in the interpreter on a CPU or compiled on a card."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from befit.backends.cuda.kernels import attention, quantised, rows  # noqa: E402
from befit.backends.cuda.kv import LayerKV, Pages  # noqa: E402
from befit.backends.cuda.weights import load_quantised  # noqa: E402
from befit.backends.reference import ops as numpy_ops  # noqa: E402
from befit.bench.random_weights import random_quant  # noqa: E402
from befit.models.program import Rope  # noqa: E402

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
KINDS = ["q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q4_k", "q5_k", "q6_k"]


def put(array, dtype=None):
    tensor = torch.from_numpy(np.ascontiguousarray(array)).to(DEVICE)
    return tensor if dtype is None else tensor.to(dtype)


def rng_of(*key):
    return np.random.default_rng([hash(k) % 2**32 if not isinstance(k, int) else k for k in key])


def floats(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("tokens", "vector"), [(1, True), (3, True), (5, False), (33, False)])
def test_a_quantised_product_is_that_of_the_dequantised_matrix(kind, tokens, vector):
    rng = np.random.default_rng(tokens)
    tensor = random_quant(rng, "w", 75, 768, kind)
    x, bias = floats(rng, tokens, 768), floats(rng, 75)
    got = quantised.linear(put(x), load_quantised(tensor, DEVICE), put(bias), vector=vector)
    assert np.allclose(got.cpu().numpy(), x @ tensor.dequantize().T + bias, atol=2e-4)


@pytest.mark.parametrize("kind", ["q4_0", "q6_k"])
def test_a_product_in_half_precision_is_near(kind):
    rng = np.random.default_rng(5)
    tensor = random_quant(rng, "w", 64, 512, kind)
    x = floats(rng, 20, 512)
    exact = x @ tensor.dequantize().T
    for vector in (True, False):
        got = quantised.linear(put(x, torch.float16), load_quantised(tensor, DEVICE), None, vector=vector)
        assert np.linalg.norm(got.float().cpu().numpy() - exact) < 3e-3 * np.linalg.norm(exact)


@pytest.mark.parametrize(("tokens", "width"), [(1, 64), (5, 100), (2, 576)])
def test_residual_and_norm(tokens, width):
    rng = np.random.default_rng(width)
    a, b, weight = floats(rng, tokens, width), floats(rng, tokens, width), floats(rng, width)
    total, normed = rows.add_norm(put(a), put(b), put(weight), 1e-5, torch.float32)
    assert np.allclose(total.cpu().numpy(), a + b, atol=1e-6)
    assert np.allclose(normed.cpu().numpy(), numpy_ops.rms_norm(a + b, weight, 1e-5), atol=1e-5)


def test_silu_times_up():
    rng = np.random.default_rng(1)
    gate, up = floats(rng, 7, 333) * 4, floats(rng, 7, 333)
    got = rows.silu_mul(put(gate), put(up)).cpu().numpy()
    assert np.allclose(got, numpy_ops.activation(gate, "silu") * up, atol=1e-5)


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize(("width", "dim"), [(32, 32), (96, 96), (64, 32), (32, 0)])
def test_rotation_and_the_writing_of_keys_and_values(interleaved, width, dim):
    rng = np.random.default_rng(width + dim)
    n, n_heads, n_kv, page = 5, 4, 2, 16
    q, k, v = floats(rng, n, n_heads, width), floats(rng, n, n_kv, width), floats(rng, n, n_kv, width)
    positions = rng.integers(0, 3000, n).astype(np.int32)
    slots = rng.choice(8 * page, n, replace=False).astype(np.int32)
    pages = [torch.zeros((8, page, n_kv, width), device=DEVICE) for _ in range(2)]
    turn, expected_q, expected_k = None, q, k
    if dim:
        rope = Rope(dim, tuple(10000.0 ** (-2 * i / dim) for i in range(dim // 2)), interleaved)
        angles = positions[:, None] * np.asarray(rope.inv_freq)
        turn = put(np.cos(angles).astype(np.float32)), put(np.sin(angles).astype(np.float32))
        expected_q, expected_k = (numpy_ops.rotate(each, positions, rope) for each in (q, k))
    layer = LayerKV(*(Pages("f32", each) for each in pages))
    got = rows.rope_and_write(put(q), put(k), put(v), turn, interleaved, layer, put(slots))
    assert np.allclose(got.cpu().numpy(), expected_q, atol=1e-5)
    flat_k, flat_v = (each.view(-1, n_kv, width).cpu().numpy() for each in pages)
    assert np.allclose(flat_k[slots], expected_k, atol=1e-5)
    assert np.array_equal(flat_v[slots], v)
    assert not flat_v[np.setdiff1d(np.arange(8 * page), slots)].any()


@pytest.mark.parametrize(("n_heads", "n_kv", "width"), [(4, 4, 32), (14, 2, 64), (6, 1, 96)])
@pytest.mark.parametrize("window", [None, 40])
def test_decode_attention_over_pages(n_heads, n_kv, width, window, monkeypatch):
    monkeypatch.setattr(attention, "CHUNK", 64)
    rng = np.random.default_rng(n_heads)
    page, n_pages, lengths = 16, 40, [1, 16, 63, 64, 65, 200]
    k, v = (np.full((n_pages, page, n_kv, width), np.nan, np.float32) for _ in range(2))
    tables = np.zeros((len(lengths), 13), np.int32)
    free = iter(rng.permutation(n_pages))
    q = floats(rng, len(lengths), n_heads, width)
    expected = []
    for s, length in enumerate(lengths):
        keys, values = floats(rng, length, n_kv, width), floats(rng, length, n_kv, width)
        for at in range(length):
            if at % page == 0:
                tables[s, at // page] = next(free)
            k[tables[s, at // page], at % page], v[tables[s, at // page], at % page] = keys[at], values[at]
        last = np.array([length - 1], np.int32)
        expected.append(numpy_ops.attend(q[s : s + 1], keys, values, last, 0.2, window)[0])
    context = np.array(lengths, np.int32)
    layer = LayerKV(Pages("f32", put(k)), Pages("f32", put(v)))
    got = attention.attend_one(put(q), layer, put(tables), put(context), 0.2, window)
    assert np.allclose(got.cpu().numpy(), np.stack(expected), atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_a_whole_model_on_the_kernels_is_the_reference(load, oracle, family):
    from befit.backends.cuda.device import Target
    from support.steps import logits_of
    from support.tiny import tiny_model

    model = tiny_model(family, storage="q4_0")
    target = Target("cpu", "f32", None, triton=True) if DEVICE.type == "cpu" else None
    backend = load(model, target=target)
    tokens = list(range(3, 23))
    exact = logits_of(oracle(model), tokens)
    bound = 1e-4 if DEVICE.type == "cpu" else 0.05
    assert np.abs(logits_of(backend, tokens, chunks=[17, 1, 1, 1]) - exact).max() < bound * exact.std()
    assert any("triton gemv" in line for line in backend.why())
