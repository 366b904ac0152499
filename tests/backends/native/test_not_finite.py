"""NaN anywhere in a model or a sequence is told, at the latest by the row that it would have changed."""

import numpy as np
import pytest

from befit.backends.base import NON_FINITE, OK, VOID, SamplerSpec
from support.steps import Seq, make_batch
from support.tiny import tiny_model

PROMPT = [1, 2, 3, 4]
POISON = 5
WEIGHTS = sorted(tiny_model("qwen2", tied=False).tensors)


def greedy(backend, work, samplers=None):
    samplers = samplers or [backend.new_sampler(SamplerSpec(), PROMPT) for _ in work]
    return backend.step(make_batch(backend.block_size, work, rows="last", samplers=samplers))


@pytest.fixture
def poisoned():
    model = tiny_model("llama", tied=False)
    model.tensors["token_embd.weight"].data[POISON] = np.nan
    return model


@pytest.mark.parametrize("kv_dtype", ["f16", "int8"])
@pytest.mark.parametrize("name", WEIGHTS)
def test_a_weight_that_is_no_number_makes_no_answer(load, name, kv_dtype):
    model = tiny_model("qwen2", tied=False)
    data = model.tensors[name].data
    data[(4, 0) if name == "token_embd.weight" else (0,) * data.ndim] = np.nan
    assert greedy(load(model, kv_dtype=kv_dtype), [(Seq([0]), PROMPT)]).status.tolist() == [NON_FINITE]


@pytest.mark.parametrize("kv_dtype", ["f16", "int8"])
def test_what_follows_a_token_that_is_no_number_is_no_answer(load, poisoned, kv_dtype):
    backend = load(poisoned, kv_dtype=kv_dtype)
    alone = greedy(backend, [(Seq([2]), PROMPT)])
    both = greedy(backend, [(Seq([0]), [1, POISON, 2, 3]), (Seq([3]), PROMPT), (Seq([1]), [POISON])])
    assert both.status.tolist() == [NON_FINITE, OK, NON_FINITE]
    assert both.spoiled == [1, 8]
    assert both.tokens[1] == alone.tokens[0]
    assert greedy(backend, [(Seq([0]), PROMPT)]).spoiled == []


def test_a_part_of_a_prompt_says_so_without_a_row(load, poisoned):
    batch = make_batch(16, [(Seq([0]), [1, POISON, 2])], samplers=[])
    batch.rows = batch.targets = batch.logprobs = np.empty(0, np.int32)
    result = load(poisoned).step(batch)
    assert (result.status.tolist(), result.spoiled) == ([], [1])


def test_a_draft_that_is_not_taken_harms_nobody(load, poisoned):
    backend = load(poisoned)
    right = int(greedy(backend, [(Seq([0]), PROMPT)]).tokens[0])
    assert right != POISON
    sampler = backend.new_sampler(SamplerSpec(), PROMPT)
    batch = make_batch(16, [(Seq([1]), [*PROMPT, POISON])], samplers=[None] * 3 + [sampler] * 2)
    batch.drafts = np.array([-1] * 3 + [POISON, -1], np.int32)
    result = backend.step(batch)
    assert result.status.tolist() == [OK, OK, OK, OK, VOID]
    assert int(result.tokens[3]) == right


def test_a_draft_that_is_taken_ends_there(load, poisoned):
    backend = load(poisoned)
    sampler = backend.new_sampler(SamplerSpec(allowed_ids=(POISON,)), PROMPT)
    batch = make_batch(16, [(Seq([1]), [*PROMPT, POISON])], samplers=[None] * 3 + [sampler] * 2)
    batch.drafts = np.array([-1] * 3 + [POISON, -1], np.int32)
    assert backend.step(batch).status.tolist() == [OK, OK, OK, OK, NON_FINITE]
