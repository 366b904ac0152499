"""The same greedy request gives the same tokens, and bit for bit the same scores, however it came to be computed.

On the native backend. Random weights make it hard: their scores lie close together, so any difference in rounding would
soon choose another token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from befit import LLM
from befit.config import EngineOptions
from befit.engine.load import LoadedModel, load_model
from befit.engine.outputs import TokenLogprob
from befit.sampling import SamplingParams
from support.files import tiny_file

Scored: TypeAlias = list[tuple[int, float]]
Open: TypeAlias = Callable[..., LLM]
CODE = "def return self import for in range if else while class try except with open as print len list"
LONG = 24
"""Words of the longest prompt: several pages, and more than the smallest chunk."""
CHUNK = 32
TOKENS = 18
"""Of a real model's answer: one more than a page, so that each answer begins a page."""


@pytest.fixture(scope="module", params=["f16", "q4_k"])
def open_tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Open]:
    """open_tiny(**options) -> LLM over a tiny model; they are closed together."""
    width = 256 if request.param == "q4_k" else 64
    sizes = {"hidden": width, "ffn": width, "head_dim": max(32, width // 4), "context": 512}
    path = tiny_file(tmp_path_factory.mktemp("tiny") / "tiny.gguf", storage=request.param, **sizes)
    opened: list[LLM] = []

    def open_model(**options: Any) -> LLM:
        settings = {"ctx": 256, "max_seqs": 32, "threads": 2, "kv_tokens": 8192, "speculation": "off", **options}
        opened.append(LLM(str(path), progress=False, **settings))
        return opened[-1]

    yield open_model
    for llm in opened:
        llm.close()


@contextmanager
def loaded_once(path: Path) -> Iterator[Open]:
    """The same over a real model, which is loaded for each number of threads, not for what its engine does with it."""
    settings: dict[str, Any] = {"ctx": 64, "max_seqs": 8, "kv_tokens": 2048, "speculation": "off"}
    loaded: dict[int, LoadedModel] = {}

    def open_model(threads: int = 2, kv_tokens: int = 2048, **changes: Any) -> LLM:
        if threads not in loaded:
            loaded[threads] = load_model(str(path), EngineOptions(**settings, threads=threads))
        model = loaded[threads]
        blocks = kv_tokens // model.config.block_size
        return LLM(replace(model, config=replace(model.config, n_blocks=blocks, **changes)))

    yield open_model
    for model in loaded.values():
        model.close()


def prompts(count: int) -> list[str]:
    """Of different lengths, some with equal beginnings, some that repeat themselves."""
    words = CODE.split()
    return [" ".join(words[(i // 4 + j * (1 + i % 3)) % len(words)] for j in range(1 + i % LONG)) for i in range(count)]


def answers(llm: LLM, texts: list[str], tokens: int) -> list[Scored]:
    params = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True, logprobs=0)
    outputs = llm.generate(texts, params, use_tqdm=False)
    return [[_pair(one) for one in output.outputs[0].logprobs or ()] for output in outputs]


def _pair(entry: TokenLogprob) -> tuple[int, float]:
    return entry.token_id, entry.logprob


def each_alone(llm: LLM, texts: list[str], tokens: int) -> list[Scored]:
    return [answers(llm, [text], tokens)[0] for text in texts]


def different(found: list[Scored], expected: list[Scored]) -> list[str]:
    """Which answers differ, and from where on."""
    return [
        f"{i} from token {next(k for k in range(len(b)) if a[k] != b[k])} on"
        for i, (a, b) in enumerate(zip(found, expected, strict=True))
        if a != b
    ]


def check(open_model: Open, texts: list[str], tokens: int, tight: int) -> None:
    """Every way to the same answers. tight: KV tokens with which a batch preempts."""
    plain = open_model(prefix_cache=False)
    expected = each_alone(plain, texts, tokens)
    assert different(answers(plain, texts, tokens), expected) == [], "in a batch"

    caching = open_model()
    assert different(answers(caching, texts, tokens), expected) == [], "prefix cache, cold"
    assert different(answers(caching, texts, tokens), expected) == [], "prefix cache, warm"
    assert caching.engine.stats().cached_tokens_total > 0

    chunks = open_model(token_budget=CHUNK, prefix_cache=False)
    assert different(answers(chunks, texts, tokens), expected) == [], "prefill in chunks"

    for cache in (True, False):
        short = open_model(kv_tokens=tight, prefix_cache=cache)
        assert different(answers(short, texts, tokens), expected) == [], f"preempted, prefix cache {cache}"
        assert short.engine.stats().preemptions_total > 0

    drafting = open_model(speculation="lookup")
    drafting.engine.speculator.time.predict = lambda tokens: 1.0  # type: ignore[method-assign]
    assert different(answers(drafting, texts, tokens), expected) == [], "speculation"
    assert drafting.engine.stats().drafted_tokens_total > 0

    threads = open_model(threads=1)
    assert different(answers(threads, texts, tokens), expected) == [], "one thread"


def test_a_tiny_model(open_tiny: Open) -> None:
    check(open_tiny, prompts(32), 24, tight=768)


@pytest.mark.slow
@pytest.mark.model
def test_smollm2(smollm2_path: Path) -> None:
    with loaded_once(smollm2_path) as open_model:
        check(open_model, prompts(32)[::-5], TOKENS, tight=128)


@pytest.mark.qwen
def test_qwen(qwen_path: Path) -> None:
    with loaded_once(qwen_path) as open_model:
        check(open_model, prompts(32)[::-5], TOKENS, tight=128)
