"""A request and its sequences: one prompt, validated, and the n continuations that are sampled from it."""

from __future__ import annotations

import os
import time
from collections import abc
from operator import index
from typing import TYPE_CHECKING

from befit.backends.base import Sampler, SamplerSpec
from befit.cache.prefix import chain_root
from befit.config import EngineConfig
from befit.engine.detokenize import OutputText
from befit.engine.loops import LoopGuard, wanted
from befit.engine.outputs import FinishReason, TokenLogprob
from befit.engine.pooling import Pool, Pooling
from befit.errors import ContextExceeded, InvalidRequest
from befit.sampling import SamplingParams
from befit.sched.task import Task
from befit.tokenizer.base import Tokenizer

if TYPE_CHECKING:
    from befit.engine.grammar import Grammar
    from befit.engine.load import LoadedModel
    from befit.engine.speculation.speculator import Guesses

_SEED_MASK = 2**64 - 1


class Sequence(Task):
    """One continuation: the scheduler's task, and what sampling and text need.

    sampler is the backend's and lives from the first step to the end, preemptions included. guesses is what speculation
    knows of it. ended: the engine computes nothing more of it. grammar is where it is in the structure that was
    asked for. pool gathers hidden states when the request is for an embedding.

    The emitter's (see `befit.engine.emit`), which may be some steps behind: text; produced, the output tokens that
    count; last_time, when the newest of them came (monotonic seconds); finish_reason and stop_reason; guard, which
    tells when the output loops, if that is wanted.
    """

    __slots__ = (
        "ended",
        "finish_reason",
        "grammar",
        "guard",
        "guesses",
        "index",
        "last_time",
        "pool",
        "produced",
        "request",
        "sampler",
        "spec",
        "stop_reason",
        "text",
    )

    def __init__(self, request: Request, number: int, spec: SamplerSpec, text: OutputText, limit: int) -> None:
        params = request.params
        super().__init__(
            request.prompt_ids,
            limit,
            priority=request.priority,
            root=request.root,
            reuse=request.pooling != "mean" and not (number == 0 and params.prompt_logprobs is not None),
            scoring=number == 0 and params.prompt_logprobs is not None,
        )
        self.request = request
        self.index = number
        self.spec = spec
        self.sampler: Sampler | None = None
        self.ended = False
        self.text = text
        self.produced = 0
        self.last_time = 0.0
        self.finish_reason: FinishReason | None = None
        self.stop_reason: str | int | None = None
        self.guesses: Guesses | None = None
        self.guard: LoopGuard | None = None
        self.grammar: Grammar | None = None
        self.pool = Pool(request.pooling, len(request.prompt_ids)) if request.pooling is not None else None


class Request:
    """A validated request. Made by `build_request` in any thread; afterwards the engine's and the emitter's.

    first_step is when the first of its steps began (monotonic seconds);
    running counts the continuations that the engine has not ended, unfinished those that have more to give out.
    """

    __slots__ = (
        "arrival",
        "end_ids",
        "eos_ids",
        "first_step",
        "id",
        "logprobs",
        "params",
        "pooling",
        "priority",
        "prompt_ids",
        "prompt_logprobs",
        "root",
        "running",
        "sequences",
        "started",
        "unfinished",
    )

    def __init__(
        self,
        request_id: str,
        prompt_ids: list[int],
        params: SamplingParams,
        *,
        priority: int,
        root: bytes,
        pooling: Pooling | None = None,
    ) -> None:
        self.id = request_id
        self.prompt_ids = prompt_ids
        self.params = params
        self.priority = priority
        self.root = root
        self.pooling = pooling
        self.arrival = self.first_step = time.monotonic()
        self.eos_ids: frozenset[int] = frozenset()
        self.end_ids: frozenset[int] = frozenset()
        self.logprobs = -1 if params.logprobs is None else params.logprobs
        self.prompt_logprobs: list[TokenLogprob | None] | None = None if params.prompt_logprobs is None else [None]
        self.sequences: list[Sequence] = []
        self.started = False
        self.running = self.unfinished = params.n

    @property
    def finished(self) -> bool:
        """Whether every continuation has given out its last delta."""
        return self.unfinished == 0

    @property
    def produced(self) -> int:
        """Output tokens of all continuations so far."""
        return sum(sequence.produced for sequence in self.sequences)

    @property
    def cached(self) -> int:
        """Prompt tokens that needed no computing."""
        return self.sequences[0].cached or 0


def build_request(
    model: LoadedModel,
    prompt_ids: abc.Sequence[int],
    params: SamplingParams,
    *,
    request_id: str | None = None,
    priority: int = 0,
    cache_salt: str = "",
    pooling: Pooling | None = None,
) -> Request:
    """Check a request against the model and resolve its sampling rules to token ids.

    pooling: the request is for the prompt's pooled hidden states instead of output; `params` asks for 0 tokens.
    Raises InvalidRequest naming the field, ContextExceeded when prompt and output cannot fit the context. A structure
    that `model.grammars` has not prepared is compiled here, which takes up to seconds.
    """
    config, vocab = model.config, model.program.vocab_size
    prompt = _prompt(prompt_ids, vocab)
    limit = _limit(len(prompt), params, config)
    _check_ids("logit_bias", params.logit_bias, vocab)
    _check_ids("stop_token_ids", params.stop_token_ids, vocab)
    _check_ids("allowed_token_ids", params.allowed_token_ids, vocab)
    request = Request(
        request_id if request_id is not None else os.urandom(12).hex(),
        prompt,
        params,
        priority=priority,
        root=chain_root(config.block_size, cache_salt),
        pooling=pooling,
    )
    request.eos_ids = frozenset() if params.ignore_eos else model.tokenizer.eos_ids
    request.end_ids = request.eos_ids | frozenset(params.stop_token_ids)
    if params.min_tokens and params.allowed_token_ids and request.end_ids.issuperset(params.allowed_token_ids):
        raise InvalidRequest(
            "allowed_token_ids holds only tokens that end the output, and the first "
            f"{params.min_tokens} (min_tokens) must not; allow others too.",
            "allowed_token_ids",
        )
    bad_words = bad_word_ids(params.bad_words, model.tokenizer)
    guarded = wanted(params, config.loop_guard)
    for number in range(params.n):
        spec = SamplerSpec(
            temperature=params.temperature,
            top_k=params.top_k,
            top_p=params.top_p,
            min_p=params.min_p,
            typical_p=params.typical_p,
            repetition_penalty=params.repetition_penalty,
            frequency_penalty=params.frequency_penalty,
            presence_penalty=params.presence_penalty,
            seed=_seed(params.seed, number),
            logit_bias=tuple((token, float(bias)) for token, bias in params.logit_bias.items()),
            bad_words=bad_words,
            min_tokens=params.min_tokens,
            stop_ids=tuple(sorted(request.end_ids)),
            allowed_ids=tuple(sorted(set(params.allowed_token_ids))),
            watermark=params.watermark,
        )
        text = OutputText(model.tokenizer, params)
        sequence = Sequence(request, number, spec, text, limit)
        sequence.guard = LoopGuard(model.tokenizer) if guarded else None
        if params.structure is not None:
            # One token at a time is allowed while a structure is closed: rules that may forbid it come first.
            close = params.close_at_limit and not (params.bad_words or params.allowed_token_ids or params.min_tokens)
            sequence.grammar = model.grammars.start(params.structure, close=close)
        request.sequences.append(sequence)
    return request


def bad_word_ids(words: abc.Sequence[str], tokenizer: Tokenizer) -> tuple[tuple[int, ...], ...]:
    """Token ids that spell each word at the start of a text and after a space, each spelling once."""
    spellings: dict[tuple[int, ...], None] = {}
    for word in words:
        plain = word.lstrip()
        for text in (plain, " " + plain):
            ids = tuple(tokenizer.encode(text, add_special=False)) if plain else ()
            if ids:
                spellings[ids] = None
            elif text == plain:
                raise InvalidRequest(f"bad_words holds {word!r}, which spells no token; leave it out.", "bad_words")
    return tuple(spellings)


def _seed(seed: int | None, number: int) -> int:
    if seed is None:
        return int.from_bytes(os.urandom(8), "little")
    return (seed + number) & _SEED_MASK


def _prompt(ids: abc.Sequence[int], vocab: int) -> list[int]:
    try:
        prompt = [index(token) for token in ids]
    except TypeError:
        raise InvalidRequest(
            "The prompt holds something that is not a token id; give a list of integers.", "prompt"
        ) from None
    if not prompt:
        raise InvalidRequest("The prompt has 0 tokens; give at least one.", "prompt")
    _check_ids("prompt", prompt, vocab)
    return prompt


def _check_ids(name: str, ids: abc.Iterable[int], vocab: int) -> None:
    for token in ids:
        if not 0 <= token < vocab:
            raise InvalidRequest(f"{name} holds token id {token}; the model's ids are 0 to {vocab - 1}.", name)


def _limit(n_prompt: int, params: SamplingParams, config: EngineConfig) -> int:
    """Tokens that a sequence may have in the end, prompt included."""
    ctx = config.ctx
    least = max(params.min_tokens, 0 if params.max_tokens == 0 else 1)
    if n_prompt + least > ctx:
        raise ContextExceeded(
            f"The prompt has {n_prompt} tokens and needs room for at least {least} more, "
            f"but the context holds {ctx}; shorten the prompt or start with a larger context.",
            "prompt",
        )
    if params.max_tokens is None:
        return ctx if config.max_output_tokens is None else min(ctx, n_prompt + max(least, config.max_output_tokens))
    if n_prompt + params.max_tokens > ctx:
        raise ContextExceeded(
            f"The prompt has {n_prompt} tokens and max_tokens is {params.max_tokens}, together "
            f"{n_prompt + params.max_tokens}, but the context holds {ctx}; "
            f"ask for at most {ctx - n_prompt} tokens or shorten the prompt.",
            "max_tokens",
        )
    return n_prompt + params.max_tokens
