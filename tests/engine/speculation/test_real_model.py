"""SmolLM2 on the native backend: token for token the same with and without drafts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from befit import LLM
from befit.config import EngineOptions
from befit.engine.load import LoadedModel, load_model
from befit.engine.outputs import CompletionOutput
from befit.sampling import SamplingParams

pytestmark = [pytest.mark.model, pytest.mark.slow]

FUNCTION = '''def total(items, tax):
    """The price of all items with tax."""
    result = 0
    for item in items:
        result += item.price * item.count
    return result * (1 + tax)
'''
PROMPTS = [
    "def fibonacci(n):\n",
    "1, 2, 3, 4, 5, 6,",
    "class Stack:\n    def __init__(self):\n        self.items = []\n\n    def push(self, item):\n",
    "The capital of France is",
    f"{FUNCTION}\n\n# The same again:\n{FUNCTION[:30]}",
    "for i in range(10):\n    print(",
    "SELECT name, COUNT(*) FROM users",
    "import os\nimport sys\n\n",
    "a b c a b c a b",
    "<!DOCTYPE html>\n<html>\n<head>\n",
]


@pytest.fixture(scope="module")
def model(smollm2_path: Path) -> Iterator[LoadedModel]:
    """SmolLM2 with itself as draft model."""
    options = EngineOptions(ctx=512, max_seqs=8, kv_tokens=8192, threads=2, draft=str(smollm2_path))
    model = load_model(str(smollm2_path), options)
    yield model
    model.close()


def engine(model: LoadedModel, speculation: str) -> LLM:
    draft = model.draft if speculation in ("draft", "auto") else None
    return LLM(replace(model, config=replace(model.config, speculation=speculation), draft=draft))


def answers(llm: LLM, prompts: list[str], params: SamplingParams) -> list[CompletionOutput]:
    return [output.outputs[0] for output in llm.generate(prompts, params, use_tqdm=False)]


PARAMS = {
    "greedy": SamplingParams(temperature=0, max_tokens=24),
    "sampled": SamplingParams(temperature=0.8, top_p=0.95, seed=3, max_tokens=24, frequency_penalty=0.3, logprobs=1),
}


@pytest.fixture(scope="module", params=PARAMS)
def params(request: pytest.FixtureRequest) -> SamplingParams:
    return PARAMS[request.param]


@pytest.fixture(scope="module")
def plain(model: LoadedModel, params: SamplingParams) -> list[CompletionOutput]:
    return answers(engine(model, "off"), PROMPTS, params)


@pytest.mark.parametrize("speculation", ["lookup", "auto"])
def test_drafts_change_no_token(
    model: LoadedModel, params: SamplingParams, plain: list[CompletionOutput], speculation: str
) -> None:
    drafting = engine(model, speculation)
    drafting.engine.speculator.time.predict = lambda tokens: 1.0  # type: ignore[method-assign]
    assert answers(drafting, PROMPTS, params) == plain
    stats = drafting.engine.stats()
    assert stats.accepted_tokens_total > 20
    assert stats.accepted_tokens_total < stats.drafted_tokens_total


def test_copied_code_is_mostly_drafts(model: LoadedModel) -> None:
    llm = engine(model, "lookup")
    llm.engine.speculator.time.predict = lambda tokens: 1.0  # type: ignore[method-assign]
    [answer] = answers(llm, [PROMPTS[4]], SamplingParams(temperature=0, max_tokens=55))
    assert llm.engine.stats().accepted_tokens_total > 0.6 * len(answer.token_ids)
