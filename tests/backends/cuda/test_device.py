"""What is decided before anything is loaded: the device, the planes' sizes, and what a card is asked for."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from befit import backends  # noqa: E402
from befit.backends.cuda import device, size  # noqa: E402
from befit.backends.cuda.choices import Choices, first, for_gate, for_quantised  # noqa: E402
from befit.backends.cuda.device import Target, choose_target  # noqa: E402
from befit.backends.cuda.weights import load_quantised  # noqa: E402
from befit.bench.random_weights import random_quant  # noqa: E402
from befit.errors import ConfigError  # noqa: E402
from support.tiny import tiny_model  # noqa: E402

KINDS = ["q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q4_k", "q5_k", "q6_k"]


@pytest.mark.parametrize("kind", KINDS)
def test_planes_dequantise_to_the_files_own_numbers_and_take_what_was_accounted_for(kind):
    tensor = random_quant(np.random.default_rng(3), "w", 12, 512, kind)
    matrix = load_quantised(tensor, torch.device("cpu"))
    assert np.array_equal(matrix.rows(slice(2, 9)).numpy(), tensor.dequantize(2, 9))
    assert matrix.nbytes == size.weight_bytes(kind, (12, 512))
    assert matrix.nbytes < 1.03 * tensor.nbytes


@pytest.mark.parametrize("storage", ["f32", "q8_0"])
def test_a_models_weights_take_what_was_accounted_for(load, storage):
    model = tiny_model("qwen2", storage=storage)
    names = model.program.weight_names()
    form = {name: storage if len(model.tensors[name].shape) == 2 else "f32" for name in names}
    assert load(model).weight_bytes == sum(size.weight_bytes(form[n], model.tensors[n].shape, 4) for n in names)


def test_the_pool_has_one_page_more_than_was_asked_for(load):
    model = tiny_model("llama")
    page = 16 * model.program.kv_bytes_per_token("f32")
    assert load(model).kv_bytes == 33 * page


@pytest.mark.parametrize("name", ["cpu:1", "tpu", "cuda:x"])
def test_a_device_that_is_none_is_refused(monkeypatch, name):
    monkeypatch.setenv("BEFIT_CUDA_DEVICE", name)
    with pytest.raises(ConfigError, match="write cuda, cuda:N or cpu"):
        choose_target()


def test_without_a_card_the_backend_says_so(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="sees 0 CUDA devices and cuda was asked for; choose --backend native"):
        choose_target("cuda")


def test_without_torch_the_backend_says_what_to_install(monkeypatch):
    monkeypatch.setattr(device, "installed", lambda: False)
    with pytest.raises(ConfigError, match=r"pip install 'befit\[cuda\]'"):
        backends.create("cuda", tiny_model("llama").program, {}, n_blocks=1, max_tokens=1, max_rows=1)


@pytest.mark.parametrize(("capability", "compute"), [((7, 5), "f16"), ((8, 9), "bf16"), ((9, 0), "bf16")])
def test_cards_compute_in_what_their_matrix_units_have(monkeypatch, capability, compute):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda number: capability)
    assert choose_target("cuda:1") == Target("cuda:1", compute, capability, choose_target("cuda:1").triton)


def test_the_choice_of_code_is_an_ordered_list_with_reasons():
    card, bare = Target("cuda:0", "bf16", (8, 9), True), Target("cuda:0", "bf16", (8, 9), False)
    assert [first(for_quantised(card, n)).name for n in (1, 4, 5, 64, 65)] == [
        "triton gemv",
        "triton gemv",
        "triton gemm",
        "triton gemm",
        "torch",
    ]
    assert first(for_quantised(bare, 1)).name == "torch"
    assert first(for_gate(card, "gelu_tanh")).name == "torch"
    lines = Choices(bare).table(head_dim=128, width=4096, fn="silu")
    assert "quantised matrix, 1 token: torch, dequantised in slices, then multiplied by the vendor's library" in lines
    assert "  not triton gemv: Triton is not installed" in lines


def test_the_same_program_runs_by_name(monkeypatch):
    monkeypatch.setenv("BEFIT_CUDA_DEVICE", "cpu")
    model = tiny_model("llama")
    backend = backends.create("cuda", model.program, model.tensors, n_blocks=4, max_tokens=32, max_rows=8)
    assert (backend.name, backend.n_blocks) == ("cuda", 4)
    backend.close()
