"""`LLM`: prompts in, outputs in their order, as users of vLLM know it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from befit import LLM, SamplingParams, __version__
from befit.config import EngineOptions
from befit.engine.load import LoadedModel, load_model
from befit.errors import BefitError, ConfigError, InvalidRequest, NonFiniteLogits

GREEDY = SamplingParams(temperature=0, max_tokens=8)
POISON = 1


@pytest.fixture
def llm(make_model: Callable[..., LoadedModel]) -> LLM:
    return LLM(make_model())


def test_outputs_come_in_the_order_of_the_prompts(llm: LLM, alone: Any) -> None:
    prompts = ["the", "a b c d e f", [5, 6, 7], "zebra"]
    params = [SamplingParams(seed=i, max_tokens=3 * i + 1, n=1 + i % 2) for i in range(4)]
    outputs = llm.generate(prompts, params, use_tqdm=False)
    for prompt, each, output in zip(prompts, params, outputs, strict=True):
        ids = llm.model.tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
        assert (output.prompt, output.prompt_token_ids) == (prompt if isinstance(prompt, str) else None, ids)
        assert output.finished
        for completion in output.outputs:
            expected = alone(ids, each, number=completion.index)
            assert (completion.token_ids, completion.text) == (expected.token_ids, expected.text)
            assert completion.finish_reason == expected.finish_reason


def test_one_prompt_may_come_without_a_list(llm: LLM) -> None:
    for prompt in ("abc", [5, 6]):
        [output] = llm.generate(prompt, GREEDY, use_tqdm=False)
        assert output.outputs[0].token_ids
    assert llm.generate([], GREEDY, use_tqdm=False) == []


def test_scores_are_there_when_asked_for_and_none_otherwise(llm: LLM) -> None:
    [plain] = llm.generate("abc", GREEDY, use_tqdm=False)
    assert (plain.outputs[0].logprobs, plain.prompt_logprobs) == (None, None)
    [scored] = llm.generate(
        "abc", SamplingParams(temperature=0, max_tokens=4, logprobs=0, prompt_logprobs=1), use_tqdm=False
    )
    assert scored.outputs[0].logprobs is not None
    assert [entry.token_id for entry in scored.outputs[0].logprobs] == scored.outputs[0].token_ids
    assert scored.prompt_logprobs is not None
    assert len(scored.prompt_logprobs) == 3


def test_the_bar_shows_requests_and_tokens_a_second(llm: LLM, capsys: pytest.CaptureFixture[str]) -> None:
    llm.generate(["a", "b"], GREEDY)
    shown = capsys.readouterr().err
    assert "2/2" in shown
    assert "tokens/s" in shown


def test_a_failed_request_says_why_and_the_others_are_complete(llm: LLM) -> None:
    bad, good = llm.generate([[5, POISON], [5, 6]], GREEDY, use_tqdm=False)
    assert bad.outputs[0].finish_reason == "error"
    assert isinstance(bad.outputs[0].error, NonFiniteLogits)
    assert good.outputs[0].error is None


def test_a_wrong_request_stops_the_call_before_it_begins(llm: LLM) -> None:
    with pytest.raises(InvalidRequest, match="999"):
        llm.generate([[5], [999]], GREEDY, use_tqdm=False)
    with pytest.raises(InvalidRequest, match="1 sampling parameters for 2 prompts"):
        llm.generate(["a", "b"], [GREEDY], use_tqdm=False)
    with pytest.raises(InvalidRequest, match="3 priorities for 1 prompts"):
        llm.generate(["a"], GREEDY, use_tqdm=False, priority=[1, 2, 3])
    assert not llm.engine.has_work


def test_ctrl_c_aborts_all_and_leaves_the_model_usable(llm: LLM) -> None:
    def press() -> None:
        if llm.model.backend.steps == 3:  # type: ignore[attr-defined]
            os.kill(os.getpid(), signal.SIGINT)

    llm.model.backend.before = press  # type: ignore[attr-defined]
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        llm.generate(["a", "b"], SamplingParams(max_tokens=40, ignore_eos=True), use_tqdm=False)
    assert signal.getsignal(signal.SIGINT) is before
    assert not llm.engine.has_work
    assert llm.engine.scheduler.pool.n_used == 0
    assert llm.generate("a", GREEDY, use_tqdm=False)[0].finished


def test_unknown_options_are_named(llm: LLM) -> None:
    with pytest.raises(ConfigError, match=r"Unknown option contexts; the options are ctx, max_seqs"):
        LLM("some-model", contexts=3)
    with pytest.raises(ConfigError, match="ctx"):
        LLM(llm.model, ctx=3)


def test_closing_frees_the_backend(make_model: Callable[..., LoadedModel]) -> None:
    with LLM(make_model()) as llm:
        backend = llm.model.backend
    assert backend.closed  # type: ignore[attr-defined]


def test_the_package_has_a_version_and_no_other_names() -> None:
    import befit

    assert __version__
    with pytest.raises(AttributeError, match="nonsense"):
        befit.nonsense  # noqa: B018


@pytest.fixture(scope="module")
def small(smollm2_path: Path) -> Any:
    with LLM(str(smollm2_path), ctx=1024, max_seqs=8) as llm:
        yield llm


@pytest.mark.model
def test_a_real_model_writes_the_same_alone_and_in_company(small: LLM) -> None:
    prompts = ["def fibonacci(n):", "import os\n", "The capital of France is", "class Stack:\n    def "]
    params = SamplingParams(temperature=0, max_tokens=12)
    together = small.generate(prompts, params, use_tqdm=False)
    again = [small.generate(prompt, params, use_tqdm=False)[0] for prompt in prompts]
    assert [o.outputs[0].text for o in together] == [o.outputs[0].text for o in again]
    assert "Paris" in together[2].outputs[0].text


@pytest.mark.model
def test_a_real_model_scores_its_own_output_as_it_did_when_it_wrote_it(small: LLM) -> None:
    # Longer than a step may compute, so that the prompt comes in chunks, the first of which ask for no logits.
    prompt = small.model.tokenizer.encode("def add(a, b):\n    return a + b\n\n" * 45)
    assert len(prompt) > small.model.config.token_budget
    [written] = small.generate(prompt, SamplingParams(temperature=0, max_tokens=20, logprobs=0), use_tqdm=False)
    completion = written.outputs[0]
    scoring = SamplingParams(max_tokens=0, prompt_logprobs=0)
    [again] = small.generate([*prompt, *completion.token_ids], scoring, use_tqdm=False)
    assert completion.logprobs is not None
    assert again.prompt_logprobs is not None
    for at, entry in enumerate(completion.logprobs, len(prompt)):
        other = again.prompt_logprobs[at]
        assert other is not None
        assert (other.token_id, other.rank) == (entry.token_id, 1)
        assert other.logprob == pytest.approx(entry.logprob, abs=0.05)


@pytest.mark.model
def test_a_real_model_answers_a_chat_by_its_template(small: LLM) -> None:
    outputs = small.chat(
        [[{"role": "user", "content": "Say hello."}], [{"role": "user", "content": "Count to three."}]],
        SamplingParams(temperature=0, max_tokens=16),
        use_tqdm=False,
    )
    assert all("<|im_start|>assistant" in (output.prompt or "") for output in outputs)
    assert all(output.outputs[0].text.strip() for output in outputs)
    [one] = small.chat([{"role": "user", "content": "Say hello."}], GREEDY, use_tqdm=False)
    assert one.prompt_token_ids == outputs[0].prompt_token_ids


@pytest.mark.model
def test_loading_reports_its_settings_and_refuses_what_cannot_be(smollm2_path: Path) -> None:
    told: list[str] = []
    done: list[tuple[int, int]] = []
    model = load_model(
        str(smollm2_path),
        EngineOptions(ctx=256, max_seqs=2, threads=1),
        report=told.append,
        on_progress=lambda *at: done.append(at),
    )
    assert "256 tokens" in told[0]
    assert done[-1][0] == done[-1][1]
    assert (model.name, model.config.n_blocks) == (smollm2_path.stem, 32)
    model.close()
    with pytest.raises(BefitError, match="ctx is 1000000"):
        load_model(str(smollm2_path), EngineOptions(ctx=1_000_000))
