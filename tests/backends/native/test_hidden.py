"""Hidden states, which embeddings are made from: those that the head would read, whatever else is in the step."""

import numpy as np
import pytest

from befit.backends.base import SamplerSpec
from support.steps import Seq, make_batch
from support.tiny import FAMILY_NAMES, tiny_model

TOKENS = [int(t) for t in np.random.default_rng(1).integers(0, 80, 40)]
NO_ROWS = {"targets": [], "samplers": [], "logprobs": []}


def hidden_of(backend, tokens, asked, pages=(0, 1, 2), **rows):
    """Hidden states at `asked` of one sequence in one step that needs no logits."""
    batch = make_batch(backend.block_size, [(Seq(list(pages)), tokens)], **NO_ROWS)
    batch.rows = np.empty(0, np.int32)
    batch.hidden = np.array(asked, np.int32)
    return backend.step(batch).hidden


def head_of(model):
    """The matrix that makes logits of hidden states."""
    return model.weight(model.program.ops[-1].weight)


@pytest.mark.parametrize("name", ["native", "reference"])
@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_the_head_makes_the_logits_of_them(load, family, name):
    model = tiny_model(family)
    backend = load(model, name)
    hidden = hidden_of(backend, TOKENS, range(40))
    assert hidden.shape == (40, model.program.hidden_size)
    assert hidden.dtype == np.float32
    logits = backend.logits(make_batch(backend.block_size, [(Seq([3, 4, 5]), TOKENS)]))
    np.testing.assert_allclose(hidden @ head_of(model).T, logits, atol=2e-3 * logits.std())


@pytest.mark.parametrize("storage", ["f32", "q4_0"])
def test_native_states_are_the_references(isa, load, storage):
    model = tiny_model("qwen2", storage=storage)
    native, reference = (hidden_of(load(model, name), TOKENS, range(40)) for name in ("native", "reference"))
    assert np.abs(native - reference).max() <= 0.03 * reference.std()


@pytest.mark.parametrize("asked", [[0], [39], [3, 17, 38], list(range(39))])
def test_only_those_asked_for_come_back_beside_tokens_that_are_sampled(load, asked):
    """Another sequence is sampled in the same step: neither changes a bit of what the other gets alone."""
    backend = load(tiny_model("llama", storage="q8_0"))
    everything = hidden_of(backend, TOKENS, range(40))
    other = TOKENS[:7]
    sampler = backend.new_sampler(SamplerSpec(), other)
    alone = backend.step(make_batch(16, [(Seq([9]), other)], rows="last", samplers=[sampler], logprobs=[3]))
    assert alone.hidden is None
    sampler = backend.new_sampler(SamplerSpec(), other)
    batch = make_batch(16, [(Seq([0, 1, 2]), TOKENS), (Seq([9]), other)], rows="last", targets=[0, -1])
    batch.rows, batch.targets = np.array([46], np.int32), np.array([-1], np.int32)
    batch.samplers, batch.logprobs = [sampler], np.array([3], np.int32)
    batch.hidden = np.array(asked, np.int32)
    both = backend.step(batch)
    np.testing.assert_array_equal(both.hidden, everything[asked])
    assert both.tokens.tolist() == alone.tokens.tolist()
    assert both.top == alone.top


@pytest.mark.parametrize("name", ["native", "reference"])
@pytest.mark.parametrize("asked", [[-1], [40], [5, 5], [39]])
def test_positions_that_are_none_are_refused(load, name, asked):
    backend = load(tiny_model("llama"), name)
    batch = make_batch(16, [(Seq([0, 1, 2]), TOKENS)], rows="last")
    batch.hidden = np.array(asked, np.int32)
    with pytest.raises(ValueError, match="hidden"):
        backend.step(batch)
