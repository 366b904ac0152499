"""The engine without a server: all requests at once, and single steps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from befit import backends
from befit.bench.offline import Stepper, latency, throughput
from befit.config import EngineConfig
from befit.engine.load import LoadedModel
from befit.errors import ConfigError
from befit.llm import LLM
from support.tiny import tiny_model


class Letters:
    """A token is a letter; token 0 decodes to nothing."""

    vocab_size = 80
    eos_ids: frozenset[int] = frozenset()
    bos_id = None
    adds_bos = False

    def decode(self, ids: list[int], *, skip_special: bool = True) -> str:
        return "".join(chr(31 + i) for i in ids if i)

    def token_bytes(self, token: int, *, skip_special: bool = True) -> bytes:
        return self.decode([token]).encode()

    def is_special(self, token: int) -> bool:
        return token == 0


@pytest.fixture
def model() -> Iterator[LoadedModel]:
    tiny = tiny_model("llama", storage="q8_0")
    sizes: dict[str, Any] = {"block_size": 16, "n_blocks": 40, "threads": 1}
    native = backends.create("native", tiny.program, tiny.tensors, **sizes, max_tokens=32, max_rows=80)
    config = EngineConfig(
        **sizes,
        ctx=256,
        max_seqs=8,
        token_budget=32,
        backend="native",
        prefix_cache=True,
        max_queue=100,
        speculation="off",
        draft=None,
    )
    loaded = LoadedModel("tiny", Path("tiny.gguf"), {}, tiny.program, Letters(), native, config)  # type: ignore[arg-type]
    yield loaded
    loaded.close()


def test_throughput_counts_every_token(model: LoadedModel) -> None:
    run = throughput(LLM(model), requests=5, prompt_tokens=20, output_tokens=7)
    assert (run["requests"], run["failed"], run["prompt_tokens"], run["output_tokens"]) == (5, 0, 100, 35)
    assert run["output_tok_s"] == pytest.approx(35 / run["duration_s"])
    assert run["total_tok_s"] == pytest.approx(135 / run["duration_s"])


def test_latency_has_a_prefill_a_context_and_a_decode_a_batch(model: LoadedModel) -> None:
    runs = list(latency(model, contexts=[16, 64], batches=[1, 4], steps=3))
    assert [(run["phase"], run["context"], run["batch"]) for run in runs] == [
        ("prefill", 16, 1),
        ("decode", 16, 1),
        ("decode", 16, 4),
        ("prefill", 64, 1),
        ("decode", 64, 1),
        ("decode", 64, 4),
    ]
    assert all(run["tok_s"] > 0 for run in runs)
    decode = runs[2]
    assert decode["tok_s"] == pytest.approx(4 * 1000 / decode["step_ms"]["p50"])
    assert decode["weights_gb_s"] > 0


def test_what_the_kv_cache_cannot_hold_is_told_not_left_out(model: LoadedModel) -> None:
    runs = list(latency(model, contexts=[200], batches=[1, 8], steps=2))
    assert "tok_s" in runs[1]
    assert runs[2]["skipped"] == "8 sequences of 205 tokens need 1664 tokens of KV cache; it holds 640."


def test_steps_of_a_shape_are_steps_of_the_engine(model: LoadedModel) -> None:
    stepper = Stepper(model)
    table = stepper.table(3, 40)
    assert len({page for pages in table for page in pages}) == 9  # no page belongs to two sequences
    stepper.fill(table)
    assert stepper.step([40, 40, 40], [1, 1, 1], stepper.table(3, 41), True) > 0
    with pytest.raises(ConfigError, match="need"):
        stepper.table(40, 17)
