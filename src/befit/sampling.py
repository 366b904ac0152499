"""What a user may ask of generation: one frozen, validated `SamplingParams` a request."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from befit.errors import CorruptFile, InvalidRequest
from befit.structure import Structure

MAX_LOGPROBS = 20
MAX_N = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How to continue one prompt. Wrong values raise `InvalidRequest` naming the field.

    n                    continuations of the prompt, sampled apart
    temperature          0 is greedy (argmax)
    top_k                keep the k likeliest tokens; 0 keeps all
    top_p                keep the smallest set of likeliest tokens whose mass reaches p (1 keeps all)
    min_p                drop tokens less likely than min_p times the likeliest (0 drops none)
    typical_p            locally typical sampling, Meister et al., arXiv 2202.00666 (1 is off)
    repetition_penalty   divides positive, multiplies negative logits of tokens in prompt or output (arXiv 1909.05858)
    frequency_penalty    OpenAI: subtracts penalty * (times the token is in the output), -2..2
    presence_penalty     OpenAI: subtracts penalty once if the token is in the output, -2..2
    seed                 the same seed gives the same output, whatever else is in the batch; None draws one
    logit_bias           token id -> value added to its logit, -100..100
    bad_words            strings that must not be produced
    allowed_token_ids    the only token ids that may be produced; empty: all
    stop                 strings that end the output; trimmed from it unless include_stop_str_in_output
    stop_token_ids       token ids that end the output
    ignore_eos           go on after the end-of-sequence token
    min_tokens           no end of sequence, stop token or stop string before this many tokens
    max_tokens           output tokens at most; None: as many as the context and the server's limit allow
    loop_guard           end an output that repeats itself without end; None: as the server is set
    editor               the output completes what someone is typing, which the loop guard looks after by default
    logprobs             log-probabilities of this many likeliest tokens at each output position (0: the chosen only)
    prompt_logprobs      the same for the prompt's positions
    skip_special_tokens  leave control tokens out of the text
    shown_tokens         token ids that are text all the same
    structure            what the output must look like
    close_at_limit       complete the structure when the tokens run out; not with bad_words, allowed_token_ids and
                         min_tokens, which may forbid what completes it
    watermark            favour tokens so that the text can be told later (see `befit.watermark`)

    Filters apply in this order: penalties and biases, temperature, top_k, top_p, min_p, typical_p.
    """

    n: int = 1
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    seed: int | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    bad_words: Sequence[str] = ()
    allowed_token_ids: Sequence[int] = ()
    stop: Sequence[str] = ()
    include_stop_str_in_output: bool = False
    stop_token_ids: Sequence[int] = ()
    ignore_eos: bool = False
    min_tokens: int = 0
    max_tokens: int | None = None
    loop_guard: bool | None = None
    editor: bool = False
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    skip_special_tokens: bool = True
    shown_tokens: Sequence[int] = ()
    structure: Structure | None = None
    close_at_limit: bool = True
    watermark: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.stop, str):
            object.__setattr__(self, "stop", (self.stop,))
        if isinstance(self.bad_words, str):
            object.__setattr__(self, "bad_words", (self.bad_words,))
        _within("n", self.n, 1, MAX_N)
        _within("temperature", self.temperature, 0.0, 100.0)
        _within("top_k", self.top_k, 0, 2**31 - 1)
        _within("top_p", self.top_p, 0.0, 1.0, above=True)
        _within("min_p", self.min_p, 0.0, 1.0)
        _within("typical_p", self.typical_p, 0.0, 1.0, above=True)
        _within("repetition_penalty", self.repetition_penalty, 0.0, 100.0, above=True)
        _within("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
        _within("presence_penalty", self.presence_penalty, -2.0, 2.0)
        _within("min_tokens", self.min_tokens, 0, 2**31 - 1)
        if self.seed is not None:
            _within("seed", self.seed, -(2**63), 2**64 - 1)
        if self.max_tokens is not None:
            _within("max_tokens", self.max_tokens, 0, 2**31 - 1)
            if self.min_tokens > self.max_tokens:
                raise InvalidRequest(
                    f"min_tokens is {self.min_tokens}, more than max_tokens {self.max_tokens}; lower it.", "min_tokens"
                )
        if self.min_tokens and self.structure is not None and not self.structure.again:
            raise InvalidRequest(
                f"min_tokens is {self.min_tokens}, but the structure says where the output ends; leave one out.",
                "min_tokens",
            )
        for name in ("logprobs", "prompt_logprobs"):
            value = getattr(self, name)
            if value is not None:
                _within(name, value, 0, MAX_LOGPROBS)
        for name in ("stop", "bad_words"):
            for text in getattr(self, name):
                if not isinstance(text, str) or not text:
                    raise InvalidRequest(
                        f"{name} holds {text!r}; every entry must be a string that is not empty.", name
                    )
        for token, bias in self.logit_bias.items():
            if not isinstance(token, int) or token < 0:
                raise InvalidRequest(f"logit_bias names token {token!r}; keys are token ids from 0 up.", "logit_bias")
            _within("logit_bias", bias, -100.0, 100.0)
        for name in ("stop_token_ids", "allowed_token_ids"):
            for token in getattr(self, name):
                _within(name, token, 0, 2**31 - 1)


_RECOMMENDED = {
    "temp": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "penalty_repeat": "repetition_penalty",
}


def recommended(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The sampling that a model's makers recommend, as fields of `SamplingParams`: GGUF's `general.sampling.*`.

    Raises CorruptFile for a value that makes no sense.
    """
    found = {field: metadata.get(f"general.sampling.{key}") for key, field in _RECOMMENDED.items()}
    given = {field: value for field, value in found.items() if value is not None}
    try:
        SamplingParams(**given)
    except InvalidRequest as error:
        raise CorruptFile(f"The model's recommended sampling (general.sampling) is wrong: {error.message}") from None
    return given


def _within(name: str, value: object, low: float, high: float, *, above: bool = False) -> None:
    """Raise unless low <= value <= high (low < value when `above`). Booleans and NaN are not numbers here."""
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        raise InvalidRequest(f"{name} is {value!r}; it must be a number.", name)
    if value > high or value < low or (above and value == low):
        bound = f"above {low:g}" if above else f"at least {low:g}"
        raise InvalidRequest(f"{name} is {value}; it must be {bound} and at most {high:g}.", name)
