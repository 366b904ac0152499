"""Keys and values in 8 bits: what is written, and attention over it, beside a NumPy twin made from the definitions."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from befit.backends.cuda import ops  # noqa: E402
from befit.backends.cuda.device import Target  # noqa: E402
from befit.backends.cuda.kernels import attention, rows  # noqa: E402
from befit.backends.cuda.kv import DTYPES, LayerKV, Pages, quantise  # noqa: E402
from befit.backends.reference import ops as numpy_ops  # noqa: E402
from befit.models.program import KV_BYTES  # noqa: E402
from support.steps import generate, logits_of  # noqa: E402
from support.tiny import tiny_model  # noqa: E402

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
KINDS = ["int8", "fp8"]
E4M3 = np.array(
    [
        (-1.0 if code & 128 else 1.0) * (m / 8 * 2.0**-6 if e == 0 else (1 + m / 8) * 2.0 ** (e - 7))
        for code in range(256)
        for e, m in [((code >> 3) & 15, code & 7)]
    ],
    np.float32,
)  # 127 and 255 are NaN
PAGE = 16


def put(array):
    return torch.from_numpy(np.ascontiguousarray(array)).to(DEVICE)


def nearest_e4m3(x):
    """Codes of the nearest e4m3, ties to the even code."""
    positive = E4M3[:127]
    above = np.clip(np.searchsorted(positive, np.abs(x)), 1, 126)
    down, up = np.abs(x) - positive[above - 1], positive[above] - np.abs(x)
    code = np.where((down < up) | ((down == up) & (above % 2 == 1)), above - 1, above)
    return (code + 128 * np.signbit(x)).astype(np.uint8)


def twin(x, kind):
    """(rounded, scales, the numbers they stand for) of vectors x [..., d]."""
    most = np.abs(x).max(-1)
    top = np.float32(127 if kind == "int8" else 448)
    y = x * (top / np.where(most > 0, most, np.inf)).astype(np.float32)[..., None]
    scale = most / top
    rounded = np.rint(y).astype(np.int8) if kind == "int8" else nearest_e4m3(y)
    numbers = rounded.astype(np.float32) if kind == "int8" else E4M3[rounded]
    return rounded, scale, numbers * scale[..., None]


def empty(kind, n_pages, n_kv, width, center=None):
    shape = (n_pages, PAGE, n_kv, width)
    k, v = (
        Pages(kind, torch.zeros(shape, dtype=DTYPES[kind], device=DEVICE), torch.zeros(shape[:3], device=DEVICE), taken)
        for taken in (center, None)
    )
    return LayerKV(k, v)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("code", ["kernel", "torch"])
@pytest.mark.parametrize("seed", range(3))
def test_what_is_written_is_the_nearest_and_its_scale(kind, centered, code, seed):
    rng = np.random.default_rng(seed)
    n, n_heads, n_kv, width = int(rng.integers(1, 9)), 4, 2, int(rng.choice([32, 48, 96, 128]))
    q = rng.standard_normal((n, n_heads, width)).astype(np.float32)
    k, v = (
        (rng.standard_normal((n, n_kv, width)) * 10.0 ** rng.uniform(-3, 3, (n, n_kv, 1))).astype(np.float32)
        for _ in range(2)
    )
    v[0, 0] = 0
    v[-1, 1, :4] *= 1e-4  # e4m3 of these are subnormal
    slots = rng.choice(3 * PAGE, n, replace=False).astype(np.int32)
    center = rng.standard_normal((n_kv, width)).astype(np.float32) * 50 if centered else None
    layer = empty(kind, 3, n_kv, width, None if center is None else put(center))
    if code == "kernel":
        rows.rope_and_write(put(q), put(k), put(v), None, False, layer, put(slots))
    else:
        layer.k.write(put(slots), put(k))
        layer.v.write(put(slots), put(v))
    for pages, x in ((layer.k, k if center is None else k - center), (layer.v, v)):
        rounded, scale, numbers = twin(x, kind)
        values = pages.values.view(-1, n_kv, width)[put(slots).long()].cpu().numpy()
        scales = pages.scale.view(-1, n_kv)[put(slots).long()].cpu().numpy()
        assert np.allclose(scales, scale, rtol=1e-6)
        close = np.abs(values.astype(np.int32) - rounded)  # a last bit of the scale may turn a tie
        assert close.max() <= 1
        assert (close > 0).mean() < 0.01
        read = pages.read(torch.arange(3, device=DEVICE), torch.float32).reshape(-1, n_kv, width).cpu().numpy()
        assert np.allclose(read[slots], numbers, atol=0.07 * np.abs(numbers).max(-1, keepdims=True).max())
        assert not read[np.setdiff1d(np.arange(3 * PAGE), slots)].any()


def test_every_e4m3_is_kept_as_itself():
    x = np.concatenate([E4M3[:127], E4M3[128:255]])
    assert np.array_equal(quantise(torch.from_numpy(x)[None], "fp8")[0].numpy()[0], nearest_e4m3(x))
    layer = empty("fp8", 1, 1, 254)
    both = put(x.reshape(1, 1, -1))
    rows.rope_and_write(both, both, both, None, False, layer, put(np.zeros(1, np.int32)))
    first = torch.zeros(1, dtype=torch.long, device=DEVICE)
    assert np.array_equal(layer.k.read(first, torch.float32)[0, 0, 0].cpu(), x)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("code", ["kernel", "torch"])
@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_a_number_that_is_not_finite_is_not_lost(kind, code, broken):
    x = np.ones((2, 1, 32), np.float32)
    x[0, 0, 5] = broken
    layer, slots = empty(kind, 1, 1, 32), put(np.arange(2, dtype=np.int32))
    if code == "kernel":
        rows.rope_and_write(put(x), put(x), put(x), None, False, layer, slots)
    else:
        layer.v.write(slots, put(x))
    scale = layer.v.scale.view(-1).cpu().numpy()
    assert not np.isfinite(scale[0])
    assert np.isfinite(scale[1])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n_heads", "n_kv", "width"), [(4, 4, 32), (14, 2, 64), (6, 1, 96)])
@pytest.mark.parametrize("window", [None, 40])
@pytest.mark.parametrize("code", ["kernel", "torch"])
def test_decode_attention_is_that_over_the_rounded_numbers(kind, n_heads, n_kv, width, window, code, monkeypatch):
    monkeypatch.setattr(attention, "CHUNK", 64)
    rng = np.random.default_rng(n_heads)
    n_pages, lengths = 30, [1, 16, 65, 150]
    layer = empty(kind, n_pages, n_kv, width)
    tables = np.zeros((len(lengths), 10), np.int32)
    free = iter(rng.permutation(n_pages))
    q = rng.standard_normal((len(lengths), n_heads, width)).astype(np.float32)
    expected = []
    for s, length in enumerate(lengths):
        size = 10.0 ** rng.uniform(-1, 1, (2, length, n_kv, 1))
        keys, values = (rng.standard_normal((2, length, n_kv, width)) * size).astype(np.float32)
        tables[s, : -(-length // PAGE)] = [next(free) for _ in range(-(-length // PAGE))]
        at = np.arange(length)
        slots = put(tables[s, at // PAGE] * PAGE + at % PAGE)
        layer.k.write(slots, put(keys))
        layer.v.write(slots, put(values))
        last = np.array([length - 1], np.int32)
        held = [twin(each, kind)[2] for each in (keys, values)]
        expected.append(numpy_ops.attend(q[s : s + 1], *held, last, 0.2, window)[0])
    attend = attention.attend_one if code == "kernel" else ops.attend_one
    got = attend(put(q), layer, put(tables), put(np.array(lengths, np.int32)), 0.2, window)
    # Where a last bit of a scale turned a tie, one number in a hundred differs by a step.
    assert np.abs(got.cpu().numpy() - np.stack(expected)).max() < 0.02 * np.abs(expected).max()
    if code == "kernel":
        plain = ops.attend_one(put(q), layer, put(tables), put(np.array(lengths, np.int32)), 0.2, window)
        assert torch.allclose(got, plain, atol=1e-4 * float(plain.abs().max()))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma3"])
@pytest.mark.parametrize("triton", [False, True])
def test_a_whole_model_stays_near_the_exact_one(load, oracle, kind, family, triton):
    model = tiny_model(family, storage="q4_0" if family == "llama" else "f32", rope__freq_base=1e9)
    if family == "qwen2":  # keys with much in common in channels that turn slowly, as Qwen2.5 has
        model.tensors["blk.0.attn_k.bias"].data.reshape(2, 2, 16)[:, :, 12:] = 60
    target = Target("cpu", "f32", None, triton=triton) if DEVICE.type == "cpu" else None
    backend = load(model, kv_dtype=kind, target=target)
    tokens = list(range(3, 23))
    exact = logits_of(oracle(model), tokens)
    got = logits_of(backend, tokens, chunks=[17, 1, 1, 1])
    assert np.linalg.norm(got - exact) < (0.02 if kind == "int8" else 0.06) * np.linalg.norm(exact)


@pytest.mark.parametrize("kind", KINDS)
def test_the_pool_takes_what_the_planner_says(load, kind):
    model = tiny_model("llama")
    assert model.program.kv_bytes_per_token(kind) == 2 * 2 * 2 * (32 + 4)
    assert load(model, kv_dtype=kind).kv_bytes == 33 * 16 * model.program.kv_bytes_per_token(kind)
    assert set(DTYPES) == set(KV_BYTES)


@pytest.mark.parametrize("kind", KINDS)
def test_how_a_prompt_is_cut_hardly_matters(load, kind):
    backend = load(tiny_model("qwen3"), kv_dtype=kind)
    texts = [[int(r.tokens[0]) for r in generate(backend, list(range(5, 45)), 8)] for _ in range(2)]
    assert texts[0] == texts[1]
    whole, cut = (logits_of(backend, list(range(60)), chunks=chunks) for chunks in ([60], [7, 40, 1, 1, 11]))
    assert np.abs(whole - cut).max() < 1e-3 * np.abs(whole).max()
