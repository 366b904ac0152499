"""The reference backend on a real model: what SmolLM2 says is what it should say."""

from __future__ import annotations

import numpy as np
import pytest

from befit.backends.reference import ReferenceBackend
from befit.models import describe
from befit.weights.gguf import GGUFFile
from support.steps import generate, logits_of

THE_CAPITAL_OF_FRANCE_IS = [504, 3575, 282, 4649, 314]

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def smollm2(smollm2_path):
    with GGUFFile.open(smollm2_path) as file:
        program = describe(file.metadata, {name: tensor.shape for name, tensor in file.tensors.items()})
        words = file.metadata["tokenizer.ggml.tokens"]
        backend = ReferenceBackend(program, file.tensors, block_size=16, n_blocks=8, max_tokens=64, max_rows=64)
    yield backend, words
    backend.close()


def test_it_knows_the_capital_of_france(smollm2):
    backend, words = smollm2
    out = [int(result.tokens[0]) for result in generate(backend, THE_CAPITAL_OF_FRANCE_IS, 6)]
    assert "".join(words[token] for token in out) == "ĠParis.ĊĊTheĠanswer"


def test_it_finds_the_prompt_likely_in_this_order_only(smollm2):
    backend, _ = smollm2

    def surprise(tokens):
        logits = logits_of(backend, tokens).astype(np.float64)
        logprobs = logits - np.log(np.exp(logits - logits.max(axis=1, keepdims=True)).sum(axis=1, keepdims=True))
        logprobs -= logits.max(axis=1, keepdims=True)
        return -logprobs[np.arange(len(tokens) - 1), tokens[1:]].mean()

    assert surprise(THE_CAPITAL_OF_FRANCE_IS) < surprise(THE_CAPITAL_OF_FRANCE_IS[::-1]) - 3
