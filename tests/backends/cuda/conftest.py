"""The CUDA backend on whatever is here: kernels in Triton's interpreter on a CPU, compiled on a card."""

from __future__ import annotations

import importlib.util
import os

import pytest

HAS_TORCH = importlib.util.find_spec("torch") is not None
if HAS_TORCH:
    import torch

    if not torch.cuda.is_available():
        os.environ.setdefault("TRITON_INTERPRET", "1")  # read when a kernel is defined

collect_ignore_glob = [] if HAS_TORCH else ["test_*.py"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "backends/cuda" in item.nodeid:
            item.add_marker(pytest.mark.torch)


@pytest.fixture
def load():
    """load(model, **options): the backend on a CPU without kernels of its own, unless a target is given."""
    from befit.backends.cuda.backend import CudaBackend
    from befit.backends.cuda.device import Target

    opened = []

    def loaded(model, **options):
        options = {
            "block_size": 16,
            "n_blocks": 32,
            "max_tokens": 256,
            "max_rows": 256,
            "kv_dtype": "f32",
            "target": Target("cpu", "f32", None, triton=False),
            **options,
        }
        opened.append(CudaBackend(model.program, model.tensors, **options))
        return opened[-1]

    yield loaded
    for backend in opened:
        backend.close()


@pytest.fixture
def oracle():
    """oracle(model): the reference backend."""
    from befit.backends.reference import ReferenceBackend

    def loaded(model):
        return ReferenceBackend(model.program, model.tensors, block_size=16, n_blocks=32, max_tokens=256, max_rows=256)

    return loaded
