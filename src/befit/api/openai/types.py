"""The request bodies of `/v1/completions` and `/v1/chat/completions`.

Fields are OpenAI's, then vLLM's extras. null means "not given" everywhere. Ranges are checked by `SamplingParams`, so
that the Python API and every protocol agree on them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict

from befit.api.openai.fields import check_extra
from befit.api.openai.request_body import RequestBody, parse
from befit.api.structure import FIELDS as STRUCTURE_FIELDS
from befit.api.structure import wanted_structure
from befit.errors import InvalidRequest
from befit.sampling import MAX_LOGPROBS, MAX_N, SamplingParams
from befit.structure import Structure

__all__ = ["ChatRequest", "CompletionRequest", "GenerationRequest", "StreamOptions", "Strings", "parse"]

NO_LIMIT = -1
"""As max_tokens, what llama.cpp's and Ollama's clients send for "as many as the context holds"."""


def _one_or_many(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Strings = Annotated[list[str], BeforeValidator(_one_or_many)]


class StreamOptions(BaseModel):
    """What a stream reports besides text: usage at the end, or in every chunk."""

    model_config = ConfigDict(extra="allow")

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class EditorOptions(BaseModel):
    """`options` as Ollama has them, which Twinny sends to OpenAI endpoints too. The request's own fields go first."""

    model_config = ConfigDict(extra="allow")

    temperature: float | None = None
    num_predict: int | None = None
    stop: Strings | None = None


class GenerationRequest(RequestBody):
    """What the endpoints that generate text share. `ignored` lists the fields that have no effect."""

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: dict[int, float] | None = None
    seed: int | None = None
    stop: Strings | None = None

    top_k: int | None = None
    min_p: float | None = None
    typical_p: float | None = None
    repetition_penalty: float | None = None
    stop_token_ids: list[int] | None = None
    min_tokens: int | None = None
    ignore_eos: bool | None = None
    loop_guard: bool | None = None
    bad_words: Strings | None = None
    allowed_token_ids: list[int] | None = None
    include_stop_str_in_output: bool | None = None
    skip_special_tokens: bool | None = None
    prompt_logprobs: int | None = None
    truncate_prompt_tokens: int | None = None
    truncation_side: str | None = None
    add_special_tokens: bool | None = None
    priority: int | None = None
    cache_salt: str | None = None
    request_id: str | None = None
    return_token_ids: bool | None = None
    return_tokens_as_token_ids: bool | None = None

    response_format: dict[str, Any] | None = None
    structured_outputs: dict[str, Any] | None = None
    guided_json: Any = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    guided_whitespace_pattern: str | None = None
    json_schema: Any = None
    grammar: str | None = None

    def check(self) -> None:
        """Refuse what cannot be honoured (see `fields.py`) and combinations that contradict each other."""
        super().check()
        if self.stream_options is not None:
            self._ignored += check_extra(self.stream_options.model_extra or {}, "stream_options.")
        if self.stream_options is not None and not self.stream:
            raise InvalidRequest("stream_options needs stream: true.", "stream_options")
        if self.prompt_logprobs is not None and self.stream:
            raise InvalidRequest("prompt_logprobs comes with whole answers only; set stream to false.", "stream")
        if self.allowed_token_ids == []:
            raise InvalidRequest("allowed_token_ids is empty; name at least one token id.", "allowed_token_ids")

    def structure(self) -> Structure | None:
        """What the output must look like."""
        return wanted_structure(
            {name: getattr(self, name) for name in (*STRUCTURE_FIELDS, "guided_whitespace_pattern")}
        )

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with a usage chunk."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def usage_in_every_chunk(self) -> bool:
        """Whether every chunk of a stream carries the usage so far (with include_usage only, as in vLLM)."""
        return self.include_usage and bool(self.stream_options and self.stream_options.continuous_usage_stats)

    def _sampling(
        self,
        max_tokens: int | None,
        logprobs: int | None,
        prompt_logprobs: int | None,
        recommended: Mapping[str, Any] | None,
    ) -> SamplingParams:
        given: dict[str, Any] = {
            "n": self.n,
            "temperature": self.temperature,
            "top_k": 0 if self.top_k == -1 else self.top_k,
            "top_p": self.top_p,
            "min_p": self.min_p,
            "typical_p": self.typical_p,
            "repetition_penalty": self.repetition_penalty,
            "frequency_penalty": self.frequency_penalty,
            "presence_penalty": self.presence_penalty,
            "seed": self.seed,
            "logit_bias": self.logit_bias,
            "bad_words": self.bad_words,
            "allowed_token_ids": self.allowed_token_ids,
            "stop": self.stop,
            "include_stop_str_in_output": self.include_stop_str_in_output,
            "stop_token_ids": self.stop_token_ids,
            "ignore_eos": self.ignore_eos,
            "loop_guard": self.loop_guard,
            "min_tokens": self.min_tokens,
            "skip_special_tokens": self.skip_special_tokens,
            "max_tokens": max_tokens,
            "logprobs": logprobs,
            "prompt_logprobs": prompt_logprobs,
            "structure": self.structure(),
            "close_at_limit": (self.structured_outputs or {}).get("close_at_limit"),
        }
        wanted = {name: value for name, value in given.items() if value is not None}
        return SamplingParams(**{**(recommended or {}), **wanted})


class CompletionRequest(GenerationRequest):
    """`/v1/completions`. `prompt` is a string, a list of strings, token ids, or a list of token id lists."""

    prompt: Any = None
    suffix: str | None = None
    echo: bool | None = None
    logprobs: int | None = None
    best_of: int | None = None
    n_predict: int | None = None
    options: EditorOptions | None = None

    def check(self) -> None:
        """Refuse contradictions."""
        super().check()
        self._take_options()
        if self.suffix and self.echo:
            raise InvalidRequest("echo and suffix exclude each other: the text is between the two; send one.", "echo")
        if self.suffix and self.truncation_side:
            raise InvalidRequest(
                "truncation_side and suffix exclude each other: a hole is cut on both sides.", "suffix"
            )
        if self.best_of is not None:
            if not (self.n or 1) <= self.best_of <= MAX_N:
                raise InvalidRequest(
                    f"best_of is {self.best_of}; it must be at least n, {self.n or 1}, and at most {MAX_N}.", "best_of"
                )
            if self.stream and self.best_of > (self.n or 1):
                raise InvalidRequest("best_of chooses among whole answers; set stream to false.", "best_of")
        if self.max_tokens == 0 and not self.echo and self.prompt_logprobs is None:
            raise InvalidRequest("max_tokens is 0; that needs echo or prompt_logprobs, else raise it.", "max_tokens")

    def _take_options(self) -> None:
        """Fill fields that are not given from their names elsewhere; -1 is llama.cpp's and Ollama's "no limit"."""
        options = self.options or EditorOptions()
        self._ignored += check_extra(options.model_extra or {}, "options.")
        for limit in (self.n_predict, options.num_predict):
            self.max_tokens = limit if self.max_tokens is None else self.max_tokens
        self.temperature = options.temperature if self.temperature is None else self.temperature
        self.stop = options.stop if self.stop is None else self.stop

    def sampling(self, room: int, recommended: Mapping[str, Any] | None = None) -> SamplingParams:
        """Parameters for a prompt that leaves `room` tokens of context; max_tokens is 16 unless given, as at OpenAI.

        recommended: what the model's makers recommend, for fields that are not given.
        """
        prompt_logprobs = self.prompt_logprobs
        if self.echo and self.logprobs is not None:
            prompt_logprobs = max(self.logprobs, prompt_logprobs or 0)
        max_tokens = None if self.max_tokens == NO_LIMIT else min(self.output_wanted, room)
        params = self._sampling(max_tokens, self.logprobs, prompt_logprobs, recommended)
        if self.best_of is None or self.best_of == params.n:
            return params
        return replace(params, n=self.best_of, logprobs=self.logprobs or 0)

    @property
    def output_wanted(self) -> int:
        """Output tokens asked for; where there is no limit, one is enough."""
        return 16 if self.max_tokens is None else 1 if self.max_tokens == NO_LIMIT else self.max_tokens


class ChatRequest(GenerationRequest):
    """`/v1/chat/completions`."""

    messages: list[dict[str, Any]]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    include_reasoning: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    def check(self) -> None:
        """Refuse contradictions."""
        super().check()
        if self.top_logprobs is not None:
            if not 0 <= self.top_logprobs <= MAX_LOGPROBS:
                raise InvalidRequest(
                    f"top_logprobs is {self.top_logprobs}; it must be at least 0 and at most {MAX_LOGPROBS}.",
                    "top_logprobs",
                )
            if self.top_logprobs > 0 and not self.logprobs:
                raise InvalidRequest("top_logprobs needs logprobs: true.", "top_logprobs")
        if self.continue_final_message and self.add_generation_prompt:
            raise InvalidRequest(
                "continue_final_message and add_generation_prompt contradict each other; set one.",
                "continue_final_message",
            )
        if None not in (self.max_tokens, self.max_completion_tokens) and self.max_tokens != self.max_completion_tokens:
            raise InvalidRequest(
                f"max_tokens is {self.max_tokens} and max_completion_tokens is {self.max_completion_tokens}; send one.",
                "max_tokens",
            )
        if self.limit == 0:
            raise InvalidRequest("max_tokens is 0; a chat needs at least 1.", "max_tokens")

    @property
    def limit(self) -> int | None:
        """The output limit, under either of its names."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def output_wanted(self) -> int:
        """Output tokens asked for; without a limit, one is enough."""
        return 1 if self.limit in (None, NO_LIMIT) else self.limit

    def sampling(self, room: int, recommended: Mapping[str, Any] | None = None) -> SamplingParams:
        """Parameters for a prompt that leaves `room` tokens of context; without a limit the engine sees to it.

        recommended: what the model's makers recommend, for fields that are not given.
        """
        logprobs = (self.top_logprobs or 0) if self.logprobs else None
        max_tokens = None if self.limit in (None, NO_LIMIT) else min(self.limit, room)
        return self._sampling(max_tokens, logprobs, self.prompt_logprobs, recommended)
