"""Embeddings through the engine: whatever the steps are cut into and whoever runs beside, the same vector."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from befit import backends
from befit.backends.base import NON_FINITE
from befit.config import EngineConfig
from befit.engine.core import Engine
from befit.engine.load import LoadedModel
from befit.engine.pooling import Pool
from befit.errors import ContextExceeded, NonFiniteLogits
from befit.sampling import SamplingParams
from support.steps import Seq, make_batch
from support.tiny import tiny_model

MODEL = tiny_model("llama", n_layers=1)
TOKENIZER = SimpleNamespace(eos_ids=frozenset(), token_bytes=lambda token, skip_special: b"x")
NOTHING = SamplingParams(max_tokens=0)
CTX = 64


def engine(budget=16, n_blocks=16, prefix_cache=True):
    config = EngineConfig(
        ctx=CTX,
        max_seqs=4,
        token_budget=budget,
        block_size=16,
        n_blocks=n_blocks,
        threads=1,
        backend="reference",
        kv_dtype="f32",
        prefix_cache=prefix_cache,
        max_queue=100,
        speculation="lookup",
        draft=None,
    )
    backend = backends.create(
        "reference", MODEL.program, MODEL.tensors, n_blocks=n_blocks, max_tokens=budget, max_rows=68
    )
    return Engine(LoadedModel("tiny", Path("tiny"), {}, MODEL.program, TOKENIZER, backend, config))


def states(tokens):
    """The hidden states of a text, computed in one step."""
    backend = backends.create("reference", MODEL.program, MODEL.tensors, n_blocks=8, max_tokens=CTX, max_rows=1)
    batch = make_batch(16, [(Seq(list(range(4))), tokens)], targets=[], samplers=[], logprobs=[])
    batch.rows, batch.hidden = np.empty(0, np.int32), np.arange(len(tokens), dtype=np.int32)
    return backend.step(batch).hidden


def run(engine):
    """All deltas by request id."""
    found = {}
    while engine.has_work:
        for request, delta in engine.step():
            found.setdefault(request.id, []).append(delta)
    return found


texts = st.lists(st.integers(0, 79), min_size=1, max_size=CTX)


@settings(max_examples=40)
@given(
    asked=st.lists(st.tuples(texts, st.sampled_from(["mean", "last"])), min_size=1, max_size=5),
    company=st.lists(texts.filter(lambda tokens: len(tokens) < CTX), max_size=2),
    budget=st.integers(4, 40),
    n_blocks=st.integers(4, 12),
    repeat=st.booleans(),
)
def test_any_company_in_any_steps_gives_the_same_vectors(asked, company, budget, n_blocks, repeat):
    one = engine(budget, n_blocks)
    for tokens in company:
        one.add_request(tokens, SamplingParams(temperature=0, max_tokens=CTX - len(tokens)))
    wanted = {}
    for tokens, kind in asked * (1 + repeat):
        wanted[one.add_request(tokens, NOTHING, pooling=kind).id] = (tokens, kind)
    found = run(one)
    for name, (tokens, kind) in wanted.items():
        [delta] = found[name]
        hidden = states(tokens)
        expected = hidden.mean(axis=0) if kind == "mean" else hidden[-1]
        np.testing.assert_allclose(delta.embedding, expected, atol=1e-4)
        assert (delta.finish_reason, delta.token_ids, delta.text) == ("length", [], "")
    one.scheduler.check_integrity()
    assert one.scheduler.pool.n_used == 0


def test_the_last_state_starts_from_pages_that_are_there_and_the_mean_cannot():
    one = engine(budget=CTX)
    tokens = [int(t) for t in np.random.default_rng(0).integers(0, 80, 40)]
    cached = []
    for kind in ("mean", "last", "mean", "last"):
        request = one.add_request(tokens, NOTHING, pooling=kind)
        cached.append(run(one)[request.id][0].cached_tokens)
    assert cached == [0, 32, 0, 32]


def test_a_text_may_fill_the_whole_context_and_no_more():
    one = engine()
    request = one.add_request([1] * CTX, NOTHING, pooling="mean")
    assert run(one)[request.id][0].embedding.shape == (64,)
    with pytest.raises(ContextExceeded, match="65"):
        one.add_request([1] * (CTX + 1), NOTHING, pooling="mean")


def test_a_vector_that_is_not_finite_fails_its_request_alone():
    one = engine(budget=40)
    step = one.model.backend.step

    def broken(batch):
        result = step(batch)
        if result.hidden is not None:
            result.hidden[0] = np.nan
        assert NON_FINITE not in result.status
        return result

    one.model.backend.step = broken
    bad = one.add_request([1, 2, 3], NOTHING, pooling="mean")
    good = one.add_request([1, 2, 3], SamplingParams(temperature=0, max_tokens=3))
    found = run(one)
    [delta] = found[bad.id]
    assert isinstance(delta.error, NonFiniteLogits)
    assert found[good.id][-1].finish_reason == "length"


def test_positions_that_are_computed_again_count_once():
    hidden = np.arange(20, dtype=np.float32).reshape(10, 2)
    pool = Pool("mean", 10)
    for start, end in [(0, 4), (0, 3), (3, 8), (8, 10)]:  # preempted after 4
        wanted = pool.wanted(start, end)
        if wanted:
            pool.add(hidden[list(wanted)])
    np.testing.assert_array_equal(pool.result(), hidden.mean(axis=0))
