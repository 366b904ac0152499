"""The engine in this process, without HTTP: many requests at once, and single steps of given shapes.

`steps` drives the backend as the engine does, one `StepBatch` a call with greedy sampling, and times each call.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from statistics import median
from typing import Any

import numpy as np

from befit.backends import BLOCK_SIZE
from befit.backends.base import Backend, SamplerSpec, StepBatch
from befit.bench.metrics import distribution
from befit.config import EngineOptions
from befit.engine.load import LoadedModel, load_model
from befit.errors import ConfigError, DoesNotFit
from befit.llm import LLM
from befit.sampling import SamplingParams

WARM_STEPS = 3


def throughput(llm: LLM, *, requests: int, prompt_tokens: int, output_tokens: int, seed: int = 0) -> dict[str, Any]:
    """All requests given to `LLM.generate` at once, with random token ids as prompts; rates over the whole time."""
    rng = random.Random(f"throughput {seed}")
    ids = _plain_ids(llm.model)
    prompts = [rng.choices(ids, k=prompt_tokens) for _ in range(requests)]
    params = SamplingParams(temperature=0, ignore_eos=True, max_tokens=output_tokens)
    llm.generate([prompts[0][:8]], SamplingParams(temperature=0, max_tokens=2), use_tqdm=False)  # the first is dearer
    begin = time.perf_counter()
    outputs = llm.generate(prompts, params, use_tqdm=sys.stderr.isatty())
    seconds = time.perf_counter() - begin
    failed = sum(output.outputs[0].finish_reason == "error" for output in outputs)
    produced = sum(len(output.outputs[0].token_ids) for output in outputs)
    return {
        "requests": requests,
        "failed": failed,
        "prompt_tokens": requests * prompt_tokens,
        "output_tokens": produced,
        "duration_s": seconds,
        "requests_per_s": (requests - failed) / seconds,
        "output_tok_s": produced / seconds,
        "total_tok_s": (produced + requests * prompt_tokens) / seconds,
    }


def _plain_ids(model: LoadedModel) -> list[int]:
    """Token ids that stand for text: the vocabulary without what decodes to nothing."""
    vocabulary = model.tokenizer
    step = max(1, vocabulary.vocab_size // 4096)
    return [i for i in range(0, vocabulary.vocab_size, step) if vocabulary.decode([i], skip_special=True)]


def load_for_steps(
    ref: str, options: EngineOptions, *, contexts: Sequence[int], batches: Sequence[int], steps: int, **wishes: Any
) -> LoadedModel:
    """The model with a KV cache for the largest batch at the longest context, or for as large a shape as fits.

    `wishes` go to `load_model`. Raises what it raises.
    """
    extra = WARM_STEPS + steps
    shapes = sorted((batch * (context + extra), batch, context) for batch in (1, *batches) for context in contexts)
    ctx = options.ctx or max(contexts) + extra
    while True:
        tokens, _, _ = shapes.pop()
        kv_tokens = -(-max(tokens, ctx) // BLOCK_SIZE) * BLOCK_SIZE + max(batches) * BLOCK_SIZE
        sized = replace(options, ctx=ctx, kv_tokens=kv_tokens, max_seqs=max(batches), prefix_cache=False)
        try:
            return load_model(ref, sized, **wishes)
        except DoesNotFit:
            if not shapes:
                raise


class Stepper:
    """Sequences of one length on a backend, stepped by hand. Pages are handed out in order and never returned."""

    def __init__(self, model: LoadedModel) -> None:
        self.backend: Backend = model.backend
        self.block = model.config.block_size
        self.budget = model.config.token_budget
        self.pages = model.config.n_blocks
        self.ids = _plain_ids(model)

    def table(self, batch: int, tokens: int) -> list[list[int]]:
        """Pages for `batch` sequences of so many tokens. Raises ConfigError when the pool is too small."""
        each = -(-tokens // self.block)
        if batch * each > self.pages:
            raise ConfigError(
                f"{batch} sequences of {tokens} tokens need {batch * each * self.block} tokens of KV cache; it holds "
                f"{self.pages * self.block}."
            )
        return [list(range(s * each, (s + 1) * each)) for s in range(batch)]

    def step(self, starts: Sequence[int], counts: Sequence[int], table: Sequence[Sequence[int]], sample: bool) -> float:
        """Compute `counts[s]` more tokens of each sequence from position `starts[s]`; seconds of the call."""
        ends = [start + count for start, count in zip(starts, counts, strict=True)]
        offsets = np.concatenate([[0], np.cumsum(counts)])
        rows = [int(o) - 1 for o in offsets[1:]] if sample else [int(offsets[-1]) - 1]
        samplers = [self.backend.new_sampler(SamplerSpec(), []) for _ in rows]
        batch = StepBatch(
            tokens=_ints(random.Random(int(offsets[-1])).choices(self.ids, k=int(offsets[-1]))),
            positions=_ints([p for start, end in zip(starts, ends, strict=True) for p in range(start, end)]),
            query_start=_ints(offsets),
            context_len=_ints(ends),
            block_tables=np.ascontiguousarray(table, dtype=np.int32),
            rows=_ints(rows),
            targets=_ints([-1] * len(rows)),
            samplers=samplers,
            logprobs=_ints([-1] * len(rows)),
        )
        begin = time.perf_counter()
        self.backend.step(batch)
        return time.perf_counter() - begin

    def prefill(self, tokens: int) -> float:
        """One prompt in chunks of the token budget; seconds of its steps."""
        [pages] = self.table(1, tokens)
        return sum(
            self.step([at], [min(self.budget, tokens - at)], [pages], False) for at in range(0, tokens, self.budget)
        )

    def fill(self, table: Sequence[Sequence[int]]) -> None:
        """Write every page, each as a sequence of its own: real keys and values at the cost of no context."""
        pages = [page for pages in table for page in pages]
        most = max(1, self.budget // self.block)
        for at in range(0, len(pages), most):
            some = pages[at : at + most]
            self.step([0] * len(some), [self.block] * len(some), [[page] for page in some], False)

    def decode(self, batch: int, context: int, steps: int) -> list[float]:
        """Seconds of each of `steps` steps of `batch` sequences that have `context` tokens, one more with each step."""
        table = self.table(batch, context + WARM_STEPS + steps)
        self.fill(table)
        times = [self.step([context + i] * batch, [1] * batch, table, True) for i in range(WARM_STEPS + steps)]
        return times[WARM_STEPS:]


def latency(
    model: LoadedModel,
    *,
    contexts: Sequence[int],
    batches: Sequence[int],
    steps: int,
    progress: Callable[[str], None] = lambda _: None,
) -> Iterator[dict[str, Any]]:
    """Prefill of one prompt, then decode steps, for each context and batch. What does not fit is told, not left out."""
    stepper = Stepper(model)
    weight_bytes = getattr(model.backend, "weight_bytes", None)
    stepper.prefill(min(64, *contexts))  # wakes the threads
    for context in contexts:
        progress(f"prefill of {context} tokens")
        try:
            seconds = stepper.prefill(context)
        except ConfigError as error:
            yield {"phase": "prefill", "context": context, "batch": 1, "skipped": error.message}
        else:
            yield {
                "phase": "prefill",
                "context": context,
                "batch": 1,
                "step_ms": {"p50": 1000 * seconds},
                "tok_s": context / seconds,
            }
        for batch in batches:
            run: dict[str, Any] = {"phase": "decode", "context": context, "batch": batch}
            progress(f"decoding {batch} x {context} tokens")
            try:
                times = stepper.decode(batch, context, steps)
            except ConfigError as error:
                yield run | {"skipped": error.message}
                continue
            middle = median(times)
            run |= {"step_ms": distribution(times), "tok_s": batch / middle}
            if weight_bytes:
                run["weights_gb_s"] = weight_bytes / middle / 1e9
            yield run


def _ints(values: Any) -> Any:
    return np.ascontiguousarray(values, dtype=np.int32)
