"""Prompts have the length that was asked for, as the server counts; the same seed gives the same ones."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from befit.bench.calibrate import FIRST, LEAST, calibrate, candidates, find_model
from befit.bench.serve import similarity
from befit.bench.source import LINES, rewriting
from befit.bench.target import Prompt, Target
from befit.bench.workloads import TYPED, Lengths, Workload, make_workload
from befit.errors import BenchmarkFailed, ConfigError
from support.fake_openai import ADDED, FakeOpenAI, Pieces, count_tokens, good, prompt_of, usage_of, whole

Serving = Callable[..., FakeOpenAI]


def counted(target: Target, prompt: Prompt) -> int:
    """The prompt's length, as the scripted server would tell."""
    return ADDED + count_tokens(prompt_of(target.body(prompt)))


def make(serving: Serving, name: str, *, chat: bool = False, seed: int = 0, **lengths: Any) -> tuple[Target, Workload]:
    target = Target(serving().url, chat=chat)
    return target, make_workload(name, target, Lengths(**lengths), seed)


def test_words_of_one_token_are_found_with_few_requests(serving: Serving) -> None:
    server = serving()
    vocabulary = calibrate(Target(server.url))
    assert all(len(word) <= 6 for word in vocabulary.words)
    assert len(vocabulary.words) >= 96
    assert vocabulary.base == ADDED + 1
    assert len(server.bodies) < 60
    assert all(body["max_tokens"] == 1 and "stream" not in body for body in server.bodies)


def test_a_server_that_refuses_ignore_eos_is_asked_without(serving: Serving) -> None:
    def script(body: dict[str, Any]) -> Pieces:
        if "ignore_eos" in body:
            return whole({"error": {"message": "Unrecognized request argument: ignore_eos"}}, "400 Bad Request")
        return good(body)

    server = serving(script)
    target = Target(server.url)
    calibrate(target)
    assert not target.ignore_eos
    assert sum("ignore_eos" in body for body in server.bodies) == 1


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": "7"}, {"prompt_tokens": 0}])
def test_a_server_that_does_not_count_is_told_so(serving: Serving, usage: Any) -> None:
    server = serving(lambda _: whole({"choices": [], "usage": usage}))
    with pytest.raises(BenchmarkFailed, match=r"without usage\.prompt_tokens"):
        calibrate(Target(server.url))


def test_a_tokeniser_without_short_words_is_told_so(serving: Serving) -> None:
    def script(body: dict[str, Any]) -> Pieces:
        return whole({"usage": {"prompt_tokens": len(prompt_of(body).encode())}})  # a token a byte

    with pytest.raises(BenchmarkFailed, match=rf"need {LEAST}"):
        calibrate(Target(serving(script).url))


def test_a_server_that_fails_is_told_so(serving: Serving) -> None:
    server = serving(lambda _: whole({"error": {"message": "no such model"}}, "404 Not Found"))
    with pytest.raises(BenchmarkFailed, match=r"HTTP 404.*no such model"):
        calibrate(Target(server.url))


def test_the_model_is_the_first_that_is_listed(serving: Serving) -> None:
    assert find_model(Target(serving().url)) == "scripted"
    with pytest.raises(BenchmarkFailed, match="give --model"):
        find_model(Target(serving().url.replace("/v1", "/v2")))


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("tokens", [3, 4, 100, 2000])
def test_random_prompts_are_exactly_as_long_as_asked(serving: Serving, chat: bool, tokens: int) -> None:
    target, workload = make(serving, "random", chat=chat, prompt=tokens, output=7)
    prompts = [workload.start("a", 4)(i) for i in range(5)]
    assert {counted(target, prompt) for prompt in prompts} == {tokens} == {prompt.tokens for prompt in prompts}
    assert {prompt.max_tokens for prompt in prompts} == {7}


def test_prompts_too_short_to_be_are_refused(serving: Serving) -> None:
    _, workload = make(serving, "random", prompt=2)
    with pytest.raises(ConfigError, match="the server counts 3 for a single word"):
        workload.start("a", 1)(0)


@pytest.mark.parametrize("name", ["random", "code-mix", "shared-prefix", "editor", "rewrite"])
def test_prompts_are_the_seeds_and_differ_between_requests_and_runs(serving: Serving, name: str) -> None:
    _, first = make(serving, name, seed=1)
    _, again = make(serving, name, seed=1)
    _, other = make(serving, name, seed=2)
    prompts = [first.start("a", 2)(i) for i in range(6)]
    assert prompts == [again.start("a", 2)(i) for i in range(6)]
    texts = {prompt.text for prompt in prompts}
    assert len(texts) == 6
    assert not texts & {other.start("a", 2)(i).text for i in range(6)}
    assert not texts & {first.start("b", 2)(i).text for i in range(6)}


def test_code_mix_is_half_short_and_half_long(serving: Serving) -> None:
    target, workload = make(serving, "code-mix")
    prompts = [workload.start("a", 1)(i) for i in range(40)]
    lengths = [counted(target, prompt) for prompt in prompts]
    assert sorted(lengths) == [128] * 20 + [512] * 20
    assert all(sorted(lengths[i : i + 2]) == [128, 512] for i in range(0, 40, 2))
    assert len({*map(tuple, zip(lengths[::2], lengths[1::2], strict=True))}) == 2  # in either order
    assert {prompt.max_tokens for prompt in prompts} == {256}
    with pytest.raises(ConfigError, match="leave out --prompt-tokens"):
        make(serving, "code-mix", prompt=64)


@pytest.mark.parametrize("chat", [False, True])
def test_a_shared_prefix_is_the_systems_and_as_long_as_asked(serving: Serving, chat: bool) -> None:
    target, workload = make(serving, "shared-prefix", chat=chat, prefix=200, prompt=50)
    one, two = (workload.start("a", 1)(i) for i in range(2))
    assert one.system == two.system
    assert one.text != two.text
    assert counted(target, one) == counted(target, two) == one.tokens == 250


def test_an_editor_types_in_the_middle_of_a_growing_document(serving: Serving) -> None:
    target, workload = make(serving, "editor", prompt=300)
    prompts = workload.start("a", 2)
    versions = [prompts(i).text.split() for i in (0, 2, 4)]  # session 0; session 1 has the odd ones
    other = prompts(1).text.split()
    for number, (before, after) in enumerate(itertools.pairwise(versions)):
        cursor = len(versions[0]) // 2 + TYPED * number
        assert after == before[:cursor] + after[cursor : cursor + TYPED] + before[cursor:]
    assert [counted(target, prompts(i)) for i in (0, 2, 4)] == [300, 300 + TYPED, 300 + 2 * TYPED]
    assert workload.by_session
    assert other[1:20] != versions[0][1:20]


@pytest.mark.parametrize("chat", [False, True])
def test_rewriting_asks_for_about_the_file_again(serving: Serving, chat: bool) -> None:
    _, workload = make(serving, "rewrite", chat=chat)
    prompt = workload.start("a", 1)(0)
    assert prompt.max_tokens == pytest.approx(count_tokens(prompt.reference), rel=0.3)
    assert similarity(prompt.text, prompt.reference) > 0.9  # all but the lines with the new name are in the prompt
    assert similarity(prompt.reference, prompt.reference) == 1.0
    assert similarity("", prompt.reference) == 0.0


@pytest.mark.parametrize("seed", range(30))
def test_the_file_to_rewrite_is_sixty_lines_of_python(seed: int) -> None:
    whole_answer, begun = (rewriting(random.Random(seed), chat=chat) for chat in (True, False))
    assert whole_answer.before.count("\n") == whole_answer.after.count("\n") == LINES
    compile(whole_answer.after, "file", "exec")
    assert begun.before == whole_answer.before
    assert whole_answer.after.endswith(begun.after)
    assert begun.prompt.endswith(whole_answer.after.removesuffix(begun.after))


def test_prompts_of_a_file(serving: Serving, tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    lines: list[dict[str, Any]] = [{"prompt": "one"}, {"prompt": "two", "max_tokens": 9}]
    file.write_text("\n\n".join(map(json.dumps, lines)))
    workload = make_workload("file", Target(serving().url), Lengths(output=5), 0, file)
    prompts = [workload.start("a", 1)(i) for i in range(3)]
    assert [(prompt.text, prompt.max_tokens) for prompt in prompts] == [("one", 5), ("two", 9), ("one", 5)]
    assert workload.distinct == 2


def test_messages_of_a_file_go_to_a_chat(serving: Serving, tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    messages = [{"role": "user", "content": "hello"}]
    file.write_text(json.dumps({"messages": messages}))
    target = Target(serving().url, chat=True)
    prompt = make_workload("file", target, Lengths(), 0, file).start("a", 1)(0)
    assert target.body(prompt)["messages"] == messages
    with pytest.raises(ConfigError, match="add --chat"):
        make_workload("file", Target(serving().url), Lengths(), 0, file)


@pytest.mark.parametrize(
    "line",
    ["nonsense", "[1]", "{}", '{"prompt": 1}', '{"prompt": "a", "messages": [1]}', '{"prompt": "a", "max_tokens": 0}'],
)
def test_other_lines_are_refused_by_number(serving: Serving, tmp_path: Path, line: str) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text(f'{{"prompt": "fine"}}\n{line}\n')
    with pytest.raises(ConfigError, match="line 2"):
        make_workload("file", Target(serving().url), Lengths(), 0, file)


def test_an_empty_file_and_a_missing_one(serving: Serving, tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text("\n")
    with pytest.raises(ConfigError, match="no prompts"):
        make_workload("file", Target(serving().url), Lengths(), 0, file)
    with pytest.raises(ConfigError, match="--prompts FILE"):
        make_workload("file", Target(serving().url), Lengths(), 0)


def test_candidates_are_different_words_and_the_first_is_none_of_a_kind() -> None:
    words = candidates()
    assert len(words) == len({*words}) > 200
    assert FIRST in words
    assert usage_of({"prompt": "a b"}, 1)["prompt_tokens"] == ADDED + 2
