"""The CUDA backend computes what the reference computes, for every family, weight type and way of cutting a step."""

from __future__ import annotations

import numpy as np
import pytest

from befit.backends.base import OK, VOID, SamplerSpec
from befit.models.program import Add, Norm
from support.steps import Seq, generate, logits_of, make_batch
from support.tiny import FAMILY_NAMES, tiny_model

TOKENS = [int(t) for t in np.random.default_rng(0).integers(0, 80, 100)]

VARIANTS = {
    "plain": {},
    "untied": {"tied": False},
    "one kv head": {"n_kv_heads": 1},
    "wide heads": {"head_dim": 96, "hidden": 128},
    "window": {"attention__sliding_window": 24},
}


def agree(ours, reference, bound=1e-4):
    assert np.abs(ours - reference).max() <= bound * reference.std()


@pytest.mark.parametrize("family", FAMILY_NAMES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_float_weights_agree_closely(load, oracle, family, variant):
    model = tiny_model(family, **VARIANTS[variant])
    ours = load(model)
    agree(logits_of(ours, TOKENS, chunks=[60, 1, 1, 38]), logits_of(oracle(model), TOKENS))


@pytest.mark.parametrize("kind", ["q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q4_k", "q5_k", "q6_k", "f16", "bf16"])
def test_every_weight_type_agrees(load, oracle, kind):
    model = tiny_model("llama", storage=kind, hidden=256, ffn=256, head_dim=64, tied=False)
    agree(logits_of(load(model), TOKENS, chunks=[97, 1, 1, 1]), logits_of(oracle(model), TOKENS))


def test_halved_keys_and_values_agree_roughly(load, oracle):
    model = tiny_model("qwen3")
    agree(logits_of(load(model, kv_dtype="f16"), TOKENS, chunks=[99, 1]), logits_of(oracle(model), TOKENS), 0.02)


def test_company_in_the_batch_changes_nothing_but_rounding(load):
    backend = load(tiny_model("llama", storage="q4_0"))
    alone = logits_of(backend, TOKENS[:50], pages=[9, 3, 20, 7])
    others, mine = [Seq([10, 11, 12, 13]), Seq([14, 15]), Seq([16])], Seq([9, 3, 20, 7])
    first = backend.logits(make_batch(16, [(others[0], TOKENS[:33]), (mine, TOKENS[:49]), (others[1], TOKENS[5:20])]))
    agree(first[33 : 33 + 49], alone[:49])
    work = [(others[1], [7]), (others[0], [8]), (mine, [TOKENS[49]]), (others[2], [9])]
    agree(backend.logits(make_batch(16, work))[2], alone[49])


SPECS = {
    "greedy": SamplerSpec(),
    "nucleus": SamplerSpec(temperature=1.0, top_p=0.95, seed=7),
    "everything": SamplerSpec(
        temperature=1.2, top_k=30, min_p=0.01, typical_p=0.95, repetition_penalty=1.2, presence_penalty=0.5, seed=3
    ),
    "bans": SamplerSpec(min_tokens=4, stop_ids=tuple(range(40)), bad_words=((50,), (51, 52))),
}


@pytest.mark.parametrize("family", FAMILY_NAMES)
@pytest.mark.parametrize("name", SPECS)
def test_the_same_text_with_the_same_log_probabilities(load, oracle, family, name):
    model = tiny_model(family)
    ours = generate(load(model), TOKENS[:9], 12, SPECS[name], logprobs=3)
    theirs = generate(oracle(model), TOKENS[:9], 12, SPECS[name], logprobs=3)
    for a, b in zip(ours, theirs, strict=True):
        assert a.tokens[0] == b.tokens[0]
        assert a.rank[0] == b.rank[0]
        assert abs(a.logprob[0] - b.logprob[0]) < 1e-4
        assert [i for i, _ in a.top[0]] == [i for i, _ in b.top[0]]


@pytest.mark.parametrize("wrong", [0, 2, 4])
def test_rows_behind_a_wrong_draft_are_void_and_the_sampler_has_not_moved(load, wrong):
    backend = load(tiny_model("llama", tied=False))
    spec = SamplerSpec(temperature=1.0, seed=8, frequency_penalty=1.5, repetition_penalty=1.3)
    tokens = [int(result.tokens[0]) for result in generate(backend, TOKENS[:5], 6, spec)]
    drafts = tokens[:4]
    if wrong < 4:
        drafts[wrong] = (drafts[wrong] + 1) % 80
    sampler = backend.new_sampler(spec, TOKENS[:5])
    batch = make_batch(16, [(Seq([3, 1]), [*TOKENS[:5], *drafts])], samplers=[sampler] * 9)
    for field in ("rows", "targets", "samplers", "logprobs"):
        setattr(batch, field, getattr(batch, field)[4:])
    batch.drafts = np.array([*drafts, -1], np.int32)
    result = backend.step(batch)
    right = min(wrong, 4) + 1
    assert result.status.tolist() == [OK] * right + [VOID] * (5 - right)
    assert result.tokens[:right].tolist() == tokens[:right]
    assert sampler.output == tokens[:right]


def test_hidden_states_are_the_references(load, oracle):
    model = tiny_model("qwen2")
    results = []
    for backend in (load(model), oracle(model)):
        batch = make_batch(16, [(Seq([1, 2]), TOKENS[:20])], rows="last")
        batch.hidden = np.array([0, 7, 18], np.int32)
        results.append(backend.step(batch))
    assert np.allclose(results[0].hidden, results[1].hidden, atol=1e-4)


def test_a_row_that_is_not_finite_fails_alone(load):
    model = tiny_model("llama")
    model.tensors["token_embd.weight"].data[5] = np.nan
    backend = load(model)
    result = backend.step(make_batch(16, [(Seq([0]), [6]), (Seq([1]), [7])], targets=[1, 2]))
    assert result.status.tolist() != [OK, OK]  # tied: the head has the broken row too
    hidden = tiny_model("llama", tied=False)
    hidden.tensors["token_embd.weight"].data[5] = np.nan
    result = load(hidden).step(make_batch(16, [(Seq([0]), [5]), (Seq([1]), [7])], targets=[1, 2]))
    assert result.status.tolist() == [1, OK]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": np.array([99], np.int32)}, "token ids must be in 0..79"),
        ({"block_tables": np.array([[32]], np.int32)}, "page 32 of 32"),
        ({"block_tables": np.array([[-1]], np.int32)}, "page -1 of 32"),
        ({"positions": np.array([4], np.int32)}, "end at context_len"),
        ({"context_len": np.array([40], np.int32)}, "do not fit 1 queries|do not fit \\[1\\] queries"),
        ({"rows": np.array([1], np.int32)}, "rows must rise"),
    ],
)
def test_a_wrong_batch_is_refused_and_the_next_one_runs(load, change, message):
    backend = load(tiny_model("llama"))
    wrong = make_batch(16, [(Seq([0]), [1])])
    for field, value in change.items():
        setattr(wrong, field, value)
    with pytest.raises(ValueError, match=message):
        backend.step(wrong)
    backend.step(make_batch(16, [(Seq([0]), [1])]))


def test_a_sum_and_the_norm_that_reads_it_are_one_instruction():
    from befit.backends.cuda.executor import AddNorm, fuse

    program = tiny_model("llama").program
    fused = fuse(program)
    sums = sum(isinstance(op, Add) for op in program.ops)
    assert sum(isinstance(op, AddNorm) for op in fused) == sums  # two a layer, the last one read by the output norm
    assert sum(isinstance(op, Norm) for op in fused) == 1
