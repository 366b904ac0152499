"""Native and reference backends over the same tiny model."""

import pytest

from befit import backends
from befit.backends.native import _native


@pytest.fixture(params=_native.isas())
def isa(request, monkeypatch):
    monkeypatch.setenv("BEFIT_ISA", request.param)
    return request.param


@pytest.fixture
def load():
    """load(model, name="native", ...) -> a backend with 32 pages."""

    def make(model, name="native", threads=2):
        return backends.create(
            name,
            model.program,
            model.tensors,
            n_blocks=32,
            threads=threads,
            max_tokens=256,
            max_rows=256,
        )

    return make
