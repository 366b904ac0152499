"""Rows with drafts: sampled as in single steps as long as the drafts are right, void behind the first wrong one."""

from collections import Counter

import numpy as np
import pytest

from befit.backends.base import NON_FINITE, OK, VOID, SamplerSpec
from support.steps import Seq, generate, make_batch
from support.tiny import tiny_model

PROMPT = [5, 6, 7, 8, 9]
SPECS = {
    "greedy": SamplerSpec(),
    "sampled": SamplerSpec(temperature=1.0, top_p=0.95, seed=7),
    "penalties": SamplerSpec(temperature=1.0, seed=8, frequency_penalty=1.5, repetition_penalty=1.3),
    "bans": SamplerSpec(min_tokens=4, stop_ids=tuple(range(40)), bad_words=((50,), (51, 52))),
}


def drafted(backend, spec, drafts, logprobs=-1):
    """One step over the prompt and the drafts behind it."""
    sampler = backend.new_sampler(spec, PROMPT)
    batch = make_batch(
        backend.block_size,
        [(Seq([3, 1]), [*PROMPT, *drafts])],
        samplers=[sampler] * (len(PROMPT) + len(drafts)),
        logprobs=[logprobs] * (len(PROMPT) + len(drafts)),
    )
    first = len(PROMPT) - 1
    batch.rows, batch.targets, batch.logprobs = batch.rows[first:], batch.targets[first:], batch.logprobs[first:]
    batch.samplers = batch.samplers[first:]
    batch.drafts = np.array([*drafts, -1], np.int32)
    return sampler, backend.step(batch)


@pytest.fixture(params=["native", "reference"])
def backend(request, load):
    return load(tiny_model("llama", storage="q8_0", tied=False), request.param)


@pytest.mark.parametrize("name", SPECS)
def test_right_drafts_give_what_single_steps_give(backend, name):
    single = generate(backend, PROMPT, 6, SPECS[name], logprobs=2)
    tokens = [int(result.tokens[0]) for result in single]
    _, result = drafted(backend, SPECS[name], tokens[:5], logprobs=2)
    assert result.status.tolist() == [OK] * 6
    assert result.tokens.tolist() == tokens
    assert np.allclose(result.logprob, [step.logprob[0] for step in single], atol=1e-5)
    assert result.rank.tolist() == [int(step.rank[0]) for step in single]


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("wrong", [0, 1, 3])
def test_behind_a_wrong_draft_rows_are_void_and_the_sampler_has_not_moved(backend, name, wrong):
    tokens = [int(result.tokens[0]) for result in generate(backend, PROMPT, 6, SPECS[name])]
    drafts = tokens[:5]
    drafts[wrong] = (drafts[wrong] + 1) % 80
    sampler, result = drafted(backend, SPECS[name], drafts)
    assert result.status.tolist() == [OK] * (wrong + 1) + [VOID] * (5 - wrong)
    assert result.tokens[: wrong + 1].tolist() == tokens[: wrong + 1]
    # The next step writes over the KV of what was wrong, and the same sampler goes on.
    seq = Seq([3, 1], len(PROMPT) + wrong)
    after = make_batch(backend.block_size, [(seq, tokens[wrong : wrong + 1])], samplers=[sampler])
    assert backend.step(after).tokens.tolist() == tokens[wrong + 1 : wrong + 2]


def test_many_sequences_draft_side_by_side(backend):
    rng = np.random.default_rng(3)
    work, samplers, drafts, expected = [], [], [], []
    for i in range(12):
        spec = SamplerSpec(temperature=1.0, seed=i)
        tokens = [int(result.tokens[0]) for result in generate(backend, PROMPT, 5, spec)]
        right = int(rng.integers(0, 5))
        guess = [*tokens[:right], *((token + 1) % 80 for token in tokens[right:4])]
        work.append((Seq([2 * i, 2 * i + 1]), [*PROMPT, *guess]))
        samplers += [None] * 4 + [backend.new_sampler(spec, PROMPT)] * 5
        drafts += [-1] * 4 + guess + [-1]
        expected.append(tokens[: right + 1])
    batch = make_batch(backend.block_size, work, samplers=samplers)
    batch.drafts = np.array(drafts, np.int32)
    result = backend.step(batch)
    for i, tokens in enumerate(expected):
        rows = slice(9 * i + 4, 9 * i + 9)
        assert result.status[rows].tolist() == [OK] * len(tokens) + [VOID] * (5 - len(tokens))
        assert result.tokens[rows][: len(tokens)].tolist() == tokens


def test_behind_a_row_that_is_not_finite_all_is_void(backend):
    ban = SamplerSpec(bad_words=tuple((token,) for token in range(80)))
    _, result = drafted(backend, ban, [1, 2])
    assert result.status.tolist() == [NON_FINITE, VOID, VOID]


@pytest.mark.parametrize("drafts", [[-1] * 4 + [9, -1, -1], [-1] * 4 + [1, 2, 3], [1, *[-1] * 6]])
def test_drafts_that_contradict_the_batch_are_refused(backend, drafts):
    sampler = backend.new_sampler(SamplerSpec(), PROMPT)
    batch = make_batch(backend.block_size, [(Seq([0]), [*PROMPT, 1, 2])], samplers=[None] * 4 + [sampler] * 3)
    batch.drafts = np.array(drafts, np.int32)
    with pytest.raises(ValueError, match="draft"):
        backend.step(batch)


def test_the_distribution_of_sampled_tokens_is_kept(backend):
    """Chi-square of the first and, where the draft was right, of the second token, over seeds 0 to 1199."""

    def probabilities(tokens):
        logits = backend.logits(make_batch(backend.block_size, [(Seq([0]), tokens)], rows="last"))[0].astype(np.float64)
        p = np.exp((logits - logits.max()) / 0.7)
        return p / p.sum()

    draft = int(probabilities(PROMPT).argmax())
    firsts, seconds = Counter(), Counter()
    for start in range(0, 1200, 30):
        work = [(Seq([i]), [*PROMPT, draft]) for i in range(30)]
        samplers = []
        for seed in range(start, start + 30):
            samplers += [None] * 4 + [backend.new_sampler(SamplerSpec(seed=seed, temperature=0.7), PROMPT)] * 2
        batch = make_batch(backend.block_size, work, samplers=samplers)
        batch.drafts = np.array([*[-1] * 4, draft, -1] * 30, np.int32)
        result = backend.step(batch)
        firsts.update(result.tokens[4::6].tolist())
        accepted = result.status[5::6] == OK
        assert (accepted == (result.tokens[4::6] == draft)).all()
        seconds.update(result.tokens[5::6][accepted].tolist())
    for seen, p in ((firsts, probabilities(PROMPT)), (seconds, probabilities([*PROMPT, draft]))):
        n = seen.total()
        common = [token for token in range(80) if n * p[token] >= 5]
        expected = np.array([n * p[token] for token in common] + [n * (1 - p[common].sum())])
        got = np.array([seen[token] for token in common] + [n - sum(seen[token] for token in common)])
        chi_square, freedom = ((got - expected) ** 2 / expected).sum(), len(common)
        assert chi_square < freedom + 3 * np.sqrt(2 * freedom)
    assert seconds.total() > 50
