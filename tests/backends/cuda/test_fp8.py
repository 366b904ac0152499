"""Matrices of e4m3: taken from a checkpoint as they are, and every way of multiplying with them."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from befit.backends.cuda import ops  # noqa: E402
from befit.backends.cuda.choices import first, for_fp8  # noqa: E402
from befit.backends.cuda.device import Target  # noqa: E402
from befit.backends.cuda.fp8 import load_fp8, scaled_linear, why_not_scaled  # noqa: E402
from befit.backends.cuda.kernels import fp8  # noqa: E402
from befit.backends.cuda.size import fp8_bytes  # noqa: E402
from befit.plan.fit import _card_weights  # noqa: E402
from befit.plan.opened import of_weights  # noqa: E402
from befit.weights.blocks import Q8_0  # noqa: E402
from befit.weights.fp8 import E4M3  # noqa: E402
from befit.weights.packed import nearest_q8_0  # noqa: E402
from befit.weights.tensor import Fp8, MadeTensor  # noqa: E402
from support.steps import logits_of  # noqa: E402
from support.tiny import tiny_model  # noqa: E402

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
BLOCKS = {"matrix": (0, 0), "row": (1, 0), "block": (128, 128), "small block": (32, 64)}


def made(name, values, kind):
    """The matrix rounded to e4m3 as a checkpoint would have it, and the numbers that it stands for."""
    rows, cols = values.shape
    tall, wide = BLOCKS[kind][0] or rows, BLOCKS[kind][1] or cols
    padded = np.zeros((-(-rows // tall) * tall, -(-cols // wide) * wide), np.float32)
    padded[:rows, :cols] = values
    scale = np.abs(padded.reshape(len(padded) // tall, tall, -1, wide)).max((1, 3)).astype(np.float32) / 448
    full = np.repeat(np.repeat(scale, tall, 0), wide, 1)[:rows, :cols]
    bits = torch.from_numpy(values / full).to(torch.float8_e4m3fn).view(torch.uint8).numpy()
    exact = E4M3[bits] * full
    source = Fp8(tall, wide, lambda: (bits, scale))

    def blocks():
        return nearest_q8_0((rows, cols), lambda a, b: exact[a:b].copy())

    return MadeTensor(name, (rows, cols), Q8_0, blocks, source), exact


def put(array):
    return torch.from_numpy(np.ascontiguousarray(array)).to(DEVICE)


def random(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("kind", BLOCKS)
def test_a_matrix_is_taken_as_it_is_and_takes_what_was_accounted_for(kind):
    tensor, exact = made("w", random(0, 200, 320), kind)
    matrix = load_fp8(tensor, DEVICE)
    assert np.array_equal(matrix.rows(slice(None)).cpu().numpy(), exact)
    assert np.array_equal(matrix.rows(put(np.array([7, 199]))).cpu().numpy(), exact[[7, 199]])
    assert matrix.by_row == ("block" not in kind)
    assert matrix.nbytes == fp8_bytes((200, 320), tensor.fp8.tall, tensor.fp8.wide)


@pytest.mark.parametrize("kind", BLOCKS)
@pytest.mark.parametrize(("tokens", "vector"), [(1, True), (3, True), (5, False), (33, False)])
def test_a_product_decoded_in_registers_is_that_of_the_matrix(kind, tokens, vector):
    tensor, exact = made("w", random(1, 75, 320), kind)
    x, bias = random(2, tokens, 320), random(3, 75)
    got = fp8.linear(put(x), load_fp8(tensor, DEVICE), put(bias), converts=False, vector=vector)
    assert np.allclose(got.cpu().numpy(), x @ exact.T + bias, atol=2e-4)
    plain = ops.linear(put(x), load_fp8(tensor, DEVICE), put(bias))
    assert np.allclose(plain.cpu().numpy(), x @ exact.T + bias, atol=2e-4)


@pytest.mark.parametrize("kind", ["matrix", "row"])
def test_a_product_of_e4m3_with_e4m3_rounds_only_the_activations(kind):
    tensor, exact = made("w", random(1, 96, 320), kind)
    x, bias = random(2, 70, 320) * 10.0 ** random(4, 70, 1), random(3, 96)
    x[5] = 0
    got = scaled_linear(put(x), load_fp8(tensor, DEVICE), put(bias)).cpu().numpy()
    most = np.abs(x).max(-1, keepdims=True)
    scale = np.where(most > 0, most / np.float32(448), 1)
    rounded = torch.from_numpy(x / scale).to(torch.float8_e4m3fn).float().numpy() * scale
    wanted = rounded @ exact.T + bias
    assert np.abs(got - wanted).max() < 0.01 * np.abs(wanted).max()  # bfloat16
    assert np.linalg.norm(got - (x @ exact.T + bias)) < 0.05 * np.linalg.norm(got)
    assert np.allclose(got[5], bias, atol=0.02)


def test_which_way_is_taken():
    ada, ampere = Target("cuda:0", "bf16", (8, 9), True), Target("cuda:0", "bf16", (8, 0), True)
    rows, blocks, odd = (
        load_fp8(made("w", random(0, n, 256), kind)[0], torch.device("cpu"))
        for n, kind in ((64, "row"), (64, "small block"), (75, "row"))
    )
    assert [first(for_fp8(ada, n, rows)).name for n in (1, 5, 65)] == ["triton gemv", "triton gemm", "scaled_mm"]
    assert first(for_fp8(ampere, 65, rows)).name == "torch"
    assert "compute capability 8.9 on" in why_not_scaled(ampere, rows)
    assert why_not_scaled(ada, blocks) == "scales of blocks of 32 by 64"
    assert "75 by 256, which are no multiples of 16" in why_not_scaled(ada, odd)
    assert first(for_fp8(Target("cpu", "f32", None, False), 1, rows)).name == "torch"


@pytest.mark.parametrize("kind", BLOCKS)
@pytest.mark.parametrize("triton", [False, True])
def test_a_whole_model_is_the_reference_with_the_files_numbers(load, oracle, kind, triton):
    model, exact = tiny_model("llama", tied=False), tiny_model("llama", tied=False)
    for name, tensor in list(model.tensors.items()):
        if name.startswith("blk") and len(tensor.shape) == 2:
            model.tensors[name], numbers = made(name, tensor.data, kind)
            exact.tensors[name].data[:] = numbers
    target = Target("cpu", "f32", None, triton=triton) if DEVICE.type == "cpu" else None
    backend = load(model, target=target)
    tokens = list(range(3, 23))
    wanted = logits_of(oracle(exact), tokens)
    got = logits_of(backend, tokens, chunks=[17, 1, 1, 1])
    assert np.abs(got - wanted).max() < (1e-4 if DEVICE.type == "cpu" else 0.05) * wanted.std()
    names = model.program.weight_names()
    facts = of_weights("tiny", "", model.program, {name: model.tensors[name] for name in names})
    assert backend.weight_bytes == _card_weights(facts, 4 if DEVICE.type == "cpu" else 2)
