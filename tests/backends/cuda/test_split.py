"""A model split between two backends says, token for token, what it says whole."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("befit.backends.native._native")

from befit import backends  # noqa: E402
from befit.backends.base import OK, SamplerSpec  # noqa: E402
from befit.backends.cuda import device  # noqa: E402
from befit.errors import ConfigError  # noqa: E402
from support.steps import Seq, generate, logits_of, make_batch  # noqa: E402
from support.tiny import FAMILY_NAMES, tiny_model  # noqa: E402

TOKENS = [int(t) for t in np.random.default_rng(0).integers(0, 80, 60)]


@pytest.fixture
def split(monkeypatch):
    """split(model, layers, **options): the first layers in torch on a CPU, the others native."""
    if not torch.cuda.is_available():
        monkeypatch.setattr(device, "choose_target", lambda: device.Target("cpu", "f32", None, triton=False))
    opened = []

    def loaded(model, layers, **options):
        options = {"n_blocks": 32, "max_tokens": 64, "max_rows": 64, "threads": 1, "card_layers": layers} | options
        opened.append(backends.create("cuda", model.program, model.tensors, **options))
        return opened[-1]

    yield loaded
    for backend in opened:
        backend.close()


@pytest.mark.parametrize("family", FAMILY_NAMES)
@pytest.mark.parametrize("layers", [1, 2])
def test_logits_are_the_references(split, oracle, family, layers):
    model = tiny_model(family, n_layers=3)
    exact = logits_of(oracle(model), TOKENS)
    got = logits_of(split(model, layers), TOKENS, chunks=[40, 1, 1, 18])
    assert np.abs(got - exact).max() < 0.02 * exact.std()  # keys and values are float16


SPECS = {"greedy": SamplerSpec(), "drawn": SamplerSpec(temperature=0.8, top_p=0.9, seed=3, repetition_penalty=1.2)}


@pytest.mark.parametrize("storage", ["f32", "bf16"])
@pytest.mark.parametrize("name", SPECS)
def test_the_text_is_that_of_one_backend(split, storage, name):
    model = tiny_model("llama", n_layers=3, storage=storage, tied=False)
    options = {"n_blocks": 32, "max_tokens": 64, "max_rows": 64, "threads": 1, "kv_dtype": "f16"}
    native = backends.create("native", model.program, model.tensors, **options)
    texts = [
        [int(r.tokens[0]) for r in generate(each, TOKENS[:9], 30, SPECS[name], logprobs=2)]
        for each in (split(model, 2), native)
    ]
    native.close()
    assert texts[0] == texts[1]


@pytest.mark.parametrize("storage", ["q4_0", "q6_k"])
def test_quantised_halves_are_as_near_as_the_native_backend_alone(split, oracle, storage):
    model = tiny_model("llama", n_layers=2, storage=storage, hidden=256, ffn=256, head_dim=64)
    exact = logits_of(oracle(model), TOKENS)
    got = logits_of(split(model, 1), TOKENS, chunks=[58, 1, 1])
    assert np.linalg.norm(got - exact) < 0.05 * np.linalg.norm(exact)


def test_sequences_side_by_side_keep_to_their_own_pages(split):
    model = tiny_model("qwen2", n_layers=2)
    backend = split(model, 1)
    alone = logits_of(split(model, 1), TOKENS[:30])
    mine, other = Seq([9, 3]), Seq([10, 11])
    backend.logits(make_batch(16, [(other, TOKENS[5:25]), (mine, TOKENS[:20])]))
    for at in range(20, 30):
        got = backend.logits(make_batch(16, [(mine, [TOKENS[at]]), (other, [TOKENS[at]])]))
        assert np.abs(got[0] - alone[at]).max() < 0.02 * alone.std()


def test_hidden_states_scores_and_progress(split, oracle):
    model = tiny_model("llama", n_layers=2)
    seen = []
    backend = split(model, 1, on_progress=lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1]
    assert seen == sorted(seen)
    results = []
    for each in (backend, oracle(model)):
        batch = make_batch(16, [(Seq([1, 2]), TOKENS[:20])], rows="last", targets=[5], samplers=[None], logprobs=[0])
        batch.hidden = np.array([0, 7], np.int32)
        results.append(each.step(batch))
    assert np.allclose(results[0].hidden, results[1].hidden, atol=0.02)
    assert results[0].status.tolist() == [OK]
    assert abs(results[0].logprob[0] - results[1].logprob[0]) < 0.02


def test_drafts_are_refused(split):
    backend = split(tiny_model("llama"), 1)
    sampler = backend.new_sampler(SamplerSpec(), [1])
    batch = make_batch(16, [(Seq([0]), [1, 2])], samplers=[sampler, sampler])
    batch.drafts = np.array([2, -1], np.int32)
    with pytest.raises(ValueError, match="takes no drafts"):
        backend.step(batch)


def test_more_tokens_a_step_than_the_vocabulary_are_refused(split):
    with pytest.raises(ConfigError, match="token_budget is 100, more than the vocabulary of 80"):
        split(tiny_model("llama"), 1, max_tokens=100)
