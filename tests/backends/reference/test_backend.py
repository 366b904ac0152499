"""The reference backend: how a sequence is paged, cut and batched does not change its logits."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from befit.backends.base import NON_FINITE, OK, SamplerSpec
from befit.backends.reference import ReferenceBackend
from befit.models.program import Attention
from befit.weights.blocks import FORMATS
from befit.weights.tensor import DenseTensor
from support.steps import Seq, generate, logits_of, make_batch
from support.tiny import FAMILY_NAMES, tiny_model

PROMPT = [5, 17, 3, 3, 42, 60, 9, 11, 2, 71, 33, 8, 25, 50, 1, 19, 66, 4, 30, 12]
N_BLOCKS = 24


def backend_of(model, *, block_size=4, program=None, **options):
    return ReferenceBackend(
        program or model.program,
        model.tensors,
        block_size=block_size,
        n_blocks=N_BLOCKS,
        max_tokens=64,
        max_rows=64,
        **options,
    )


MODELS = {
    "llama": tiny_model("llama"),
    "windowed": tiny_model("gemma3", n_layers=6, attention__sliding_window=6),
}


def cuts(total, sizes):
    """The sizes, cut or filled up to sum to total."""
    chunks = []
    for size in sizes:
        if sum(chunks) + size >= total:
            break
        chunks.append(size)
    return [*chunks, total - sum(chunks)]


@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=15)
@given(
    block_size=st.integers(1, 8),
    pages=st.permutations(range(N_BLOCKS)),
    sizes=st.lists(st.integers(1, 9), max_size=8),
)
def test_pages_and_chunks_do_not_change_the_logits(name, block_size, pages, sizes):
    whole = logits_of(backend_of(MODELS[name], block_size=len(PROMPT)), PROMPT)
    paged = logits_of(
        backend_of(MODELS[name], block_size=block_size), PROMPT, pages=pages, chunks=cuts(len(PROMPT), sizes)
    )
    np.testing.assert_allclose(paged, whole, atol=1e-5)


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_a_batch_of_sequences_gives_each_what_it_gets_alone(family):
    model = tiny_model(family, attention__sliding_window=5)
    alone = [logits_of(backend_of(model), tokens) for tokens in (PROMPT, PROMPT[7:], PROMPT[:3])]
    backend = backend_of(model)
    a, b, c = Seq([9, 2, 14, 0, 7]), Seq([20, 3, 5, 6]), Seq([8])
    first = backend.logits(make_batch(4, [(a, PROMPT[:10]), (b, PROMPT[7:19])]))
    second = backend.logits(make_batch(4, [(b, PROMPT[19:]), (c, PROMPT[:3]), (a, PROMPT[10:])]))
    np.testing.assert_allclose(first, np.concatenate([alone[0][:10], alone[1][:12]]), atol=1e-5)
    np.testing.assert_allclose(second, np.concatenate([alone[1][12:], alone[2], alone[0][10:]]), atol=1e-5)


def test_sequences_may_share_the_pages_of_a_common_prefix():
    backend = backend_of(MODELS["llama"])
    backend.logits(make_batch(4, [(Seq([0, 1]), PROMPT[:8])]))
    shared = Seq([0, 1, 2, 3, 4], length=8)
    rest = backend.logits(make_batch(4, [(shared, PROMPT[8:])]))
    np.testing.assert_allclose(rest, logits_of(backend_of(MODELS["llama"]), PROMPT)[8:], atol=1e-5)


def test_only_the_rows_that_are_asked_for_come_back():
    backend = backend_of(MODELS["llama"])
    batch = make_batch(4, [(Seq([0, 1, 2]), PROMPT[:9]), (Seq([3, 4]), PROMPT[:5])], rows="last")
    everything = logits_of(backend_of(MODELS["llama"]), PROMPT)
    np.testing.assert_allclose(backend.logits(batch), everything[[8, 4]], atol=1e-5)


def with_window(program, window):
    ops = [dataclasses.replace(op, window=window) if isinstance(op, Attention) else op for op in program.ops]
    return dataclasses.replace(program, ops=tuple(ops))


def test_a_window_of_w_sees_w_tokens_with_its_own():
    model = tiny_model("llama", n_layers=1)
    windowed = logits_of(backend_of(model, program=with_window(model.program, 4)), PROMPT)
    unlimited = logits_of(backend_of(model), PROMPT)
    np.testing.assert_allclose(windowed[:4], unlimited[:4], atol=1e-5)
    assert np.abs(windowed[4:] - unlimited[4:]).max(axis=1).min() > 1e-3
    changed = [PROMPT[0] + 1, *PROMPT[1:]]
    other = logits_of(backend_of(model, program=with_window(model.program, 4)), changed)
    np.testing.assert_allclose(other[4:], windowed[4:], atol=1e-6)  # token 0 is out of sight from position 4 on
    assert np.abs(other[3] - windowed[3]).max() > 1e-3


@pytest.mark.parametrize("kind", [*FORMATS, "f16", "bf16"])
def test_every_weight_format_is_dequantised_at_load(kind):
    quantised = tiny_model("llama", storage=kind, hidden=256, ffn=256, n_heads=8, n_layers=1)
    dense = {n: DenseTensor(n, t.shape, "f32", t.dequantize()) for n, t in quantised.tensors.items()}
    found = logits_of(backend_of(quantised), PROMPT)
    expected = logits_of(backend_of(dataclasses.replace(quantised, tensors=dense)), PROMPT)
    np.testing.assert_array_equal(found, expected)
    assert 0.05 < found.std() < 20


def test_half_precision_pages_round_keys_and_values_only():
    exact = logits_of(backend_of(MODELS["llama"]), PROMPT)
    rounded = logits_of(backend_of(MODELS["llama"], kv_dtype=np.float16), PROMPT)
    assert 0 < np.abs(exact - rounded).max() < 1e-2


def test_loading_reports_bytes_and_releases_every_tensor():
    model, seen, released = MODELS["llama"], [], []
    backend_of(
        model, on_progress=lambda done, total: seen.append((done, total)), release=lambda t: released.append(t.name)
    )
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1][0] == seen[-1][1] == sum(tensor.nbytes for tensor in model.tensors.values())
    assert sorted(released) == sorted(model.tensors)


def test_greedy_steps_follow_the_argmax_of_the_logits():
    model = MODELS["llama"]
    out = [int(r.tokens[0]) for r in generate(backend_of(model), PROMPT[:5], 6)]
    logits = logits_of(backend_of(model), PROMPT[:5] + out)
    assert out == logits[4:-1].argmax(axis=1).tolist()


def test_the_same_seed_gives_the_same_output_whatever_else_is_in_the_batch():
    model, spec = MODELS["llama"], SamplerSpec(temperature=1.0, seed=99)
    alone = [int(r.tokens[0]) for r in generate(backend_of(model), PROMPT[:5], 8, spec)]
    backend = backend_of(model)
    mine, other = Seq([0, 1, 2, 3]), Seq([9, 8, 7, 6])
    samplers = [backend.new_sampler(SamplerSpec(temperature=1.0, seed=1), [4]), backend.new_sampler(spec, PROMPT[:5])]
    together, new = [], [[4], PROMPT[:5]]
    for _ in range(8):
        batch = make_batch(4, [(other, new[0]), (mine, new[1])], rows="last", samplers=samplers)
        tokens = backend.step(batch).tokens.tolist()
        together.append(tokens[1])
        new = [[tokens[0]], [tokens[1]]]
    assert together == alone


def test_log_probabilities_are_of_the_raw_logits():
    model = MODELS["llama"]
    raw = logits_of(backend_of(model), PROMPT)[-1].astype(np.float64)
    logprobs = raw - raw.max() - np.log(np.exp(raw - raw.max()).sum())
    spec = SamplerSpec(temperature=0.7, top_k=1, logit_bias=((13, 100.0),))
    backend = backend_of(model)
    batch = make_batch(
        4,
        [(Seq([0, 1, 2, 3, 4]), PROMPT)],
        rows="last",
        samplers=[backend.new_sampler(spec, PROMPT)],
        logprobs=[3],
    )
    result = backend.step(batch)
    order = np.argsort(-logprobs)
    assert result.tokens.tolist() == [13]
    assert result.logprob[0] == pytest.approx(logprobs[13], abs=1e-4)
    assert result.rank[0] == 1 + order.tolist().index(13)
    assert [i for i, _ in result.top[0]] == order[:3].tolist()
    assert [x for _, x in result.top[0]] == pytest.approx(logprobs[order[:3]], abs=1e-4)


def test_a_prompt_is_scored_token_by_token():
    model, backend = MODELS["llama"], backend_of(MODELS["llama"])
    batch = make_batch(4, [(Seq(list(range(5))), PROMPT)], targets=[*PROMPT[1:], 0], logprobs=[0] * len(PROMPT))
    result = backend.step(batch)
    raw = logits_of(backend_of(model), PROMPT).astype(np.float64)
    logprobs = raw - np.log(np.exp(raw).sum(axis=1, keepdims=True))
    assert result.tokens.tolist() == [*PROMPT[1:], 0]
    np.testing.assert_allclose(result.logprob[:-1], logprobs[np.arange(19), PROMPT[1:]], atol=1e-4)
    assert all(top == [] for top in result.top)
    assert (result.status == OK).all()


def test_a_row_that_is_not_finite_fails_alone():
    model = tiny_model("llama")
    embedding = model.weight("token_embd.weight").copy()
    embedding[7] = np.nan
    tensors = model.tensors | {"token_embd.weight": DenseTensor("token_embd.weight", embedding.shape, "f32", embedding)}
    untied = tiny_model("llama", tied=False)
    tensors["output.weight"] = untied.tensors["output.weight"]
    backend = backend_of(dataclasses.replace(untied, tensors=tensors))
    samplers = [backend.new_sampler(SamplerSpec(), []) for _ in range(2)]
    batch = make_batch(4, [(Seq([0]), [1, 7]), (Seq([1]), [1, 2])], rows="last", samplers=samplers, logprobs=[1, 1])
    result = backend.step(batch)
    assert result.status.tolist() == [NON_FINITE, OK]
    assert samplers[0].output == []
    assert len(samplers[1].output) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": np.array([1, 80], np.int32)}, r"token ids must be in 0\.\.79"),
        ({"targets": np.array([0, 80], np.int32)}, r"targets must be in 0\.\.79"),
        ({"block_tables": np.array([[N_BLOCKS]], np.int32)}, "no valid page"),
        ({"block_tables": np.zeros((1, 0), np.int32)}, "no valid page"),
        ({"context_len": np.array([3], np.int32)}, r"context 3 and queries at \[0, 1\]"),
        ({"samplers": ["a sampler", None]}, "row 0 must have either a sampler or a target"),
    ],
)
def test_batches_that_would_touch_what_they_must_not_are_refused(change, message):
    batch = make_batch(4, [(Seq([0]), [1, 2])])
    with pytest.raises(ValueError, match=message):
        backend_of(MODELS["llama"]).step(dataclasses.replace(batch, **change))


def test_steps_larger_than_the_backend_was_made_for_are_refused():
    with pytest.raises(ValueError, match="65 tokens and 65 rows; the backend was made for 64 and 64"):
        backend_of(MODELS["llama"]).step(make_batch(4, [(Seq(list(range(17))), [1] * 65)]))
