"""A server takes as much memory as it said at its start."""

from __future__ import annotations

from pathlib import Path

import pytest

from befit.bench.memory import measure
from befit.config import EngineOptions
from befit.engine.load import load_model, settle


@pytest.mark.slow
@pytest.mark.model
def test_the_predicted_peak_is_the_measured_one(smollm2_path: Path) -> None:
    run = measure(str(smollm2_path), {"ctx": 512, "kv_tokens": 1024, "max_seqs": 2, "token_budget": 256})
    predicted, peak = run["predicted"], run["measured"]
    assert abs(predicted["together"] - peak) < 60 * 10**6
    assert run["idle"] < peak
    assert predicted["together"] == sum(size for name, size in predicted.items() if name != "together")


@pytest.mark.model
@pytest.mark.parametrize("kv_dtype", ["f16", "int8"])
def test_weights_cache_and_buffers_are_predicted_to_the_byte(smollm2_path: Path, kv_dtype: str) -> None:
    options = EngineOptions(ctx=512, kv_tokens=1024, max_seqs=2, kv_dtype=kv_dtype)
    config, budget, facts = settle(str(smollm2_path), options)
    loaded = load_model(str(smollm2_path), options)
    backend = loaded.backend
    native = backend.model
    assert facts.buffers is not None
    assert budget.kv == backend.kv_bytes
    assert native.buffer_bytes == facts.buffers.exact(config.token_budget, config.max_seqs + 64, config.threads)
    # Beside packed matrices there are the mapped table of embeddings and float32 vectors.
    beside = facts.memory["embedding"] + facts.memory["norms, biases"]
    assert backend.weight_bytes == pytest.approx(budget.weights - beside, abs=64 * len(facts.shapes))
    loaded.close()
