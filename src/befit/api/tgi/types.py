"""The body of a TGI request. Names, ranges and quirks are those of its router (router/src/lib.rs, validation.rs).

Ranges are TGI's own where they are narrower than `SamplingParams`'s; its limits on how much one may ask for (4 stop
strings, 5 likely tokens) are not taken over.
"""

from __future__ import annotations

import secrets
from typing import Any

from pydantic import BaseModel, ConfigDict

from befit.api.openai.fields import check_extra
from befit.api.openai.request_body import RequestBody
from befit.api.structure import wanted_structure
from befit.errors import ContextExceeded, InvalidRequest, UnsupportedField
from befit.sampling import MAX_LOGPROBS, MAX_N, SamplingParams
from befit.structure import Structure


class Parameters(BaseModel):
    """`parameters`. null means "not given"."""

    model_config = ConfigDict(extra="allow")

    adapter_id: str | None = None
    best_of: int | None = None
    decoder_input_details: bool | None = None
    details: bool | None = None
    do_sample: bool | None = None
    frequency_penalty: float | None = None
    grammar: dict[str, Any] | None = None
    max_new_tokens: int | None = None
    repetition_penalty: float | None = None
    return_full_text: bool | None = None
    seed: int | None = None
    stop: list[str] | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_n_tokens: int | None = None
    top_p: float | None = None
    truncate: int | None = None
    typical_p: float | None = None
    watermark: bool | None = None

    def check(self, *, stream: bool) -> list[str]:
        """Refuse what TGI refuses, and what befit cannot do; returns the fields that have no effect."""
        for name in ("temperature", "repetition_penalty"):
            if (value := getattr(self, name)) is not None and value <= 0:
                raise InvalidRequest(f"`{name}` must be strictly positive. Given: {value}.", name)
        for name in ("top_p", "typical_p"):
            if (value := getattr(self, name)) is not None and not 0 < value < 1:
                raise InvalidRequest(f"`{name}` must be > 0.0 and < 1.0. Given: {value}; leave it out.", name)
        for name in ("top_k", "max_new_tokens", "truncate"):
            if (value := getattr(self, name)) is not None and value <= 0:
                raise InvalidRequest(f"`{name}` must be strictly positive. Given: {value}.", name)
        if self.top_n_tokens is not None and not 0 <= self.top_n_tokens <= MAX_LOGPROBS:
            raise InvalidRequest(
                f"`top_n_tokens` must be >= 0 and <= {MAX_LOGPROBS}. Given: {self.top_n_tokens}.", "top_n_tokens"
            )
        if self.decoder_input_details and stream:
            raise InvalidRequest("`decoder_input_details` == true is not supported when streaming tokens.", "stream")
        if self.adapter_id is not None:
            raise UnsupportedField("adapter_id: no adapters are served here; leave it out.", "adapter_id")
        self._check_best_of(stream)
        return check_extra(self.model_extra or {}, "parameters.", known=type(self).model_fields)

    def _check_best_of(self, stream: bool) -> None:
        best_of = self.best_of
        if best_of is None or best_of == 1:
            return
        if not 1 < best_of <= MAX_N:
            raise InvalidRequest(f"`best_of` must be > 0 and <= {MAX_N}. Given: {best_of}.", "best_of")
        if not self.samples:
            raise InvalidRequest("you must use sampling when `best_of` is > 1; set do_sample.", "best_of")
        if self.seed is not None:
            raise InvalidRequest("`seed` must not be set when `best_of` > 1.", "seed")
        if stream:
            raise InvalidRequest("`best_of` != 1 is not supported when streaming tokens.", "best_of")

    @property
    def samples(self) -> bool:
        """Whether tokens are drawn: where that is asked for, or where a field would have no effect without."""
        filters = (self.top_k, self.top_p, self.typical_p)
        return bool(self.do_sample) or self.temperature not in (None, 1.0) or any(one is not None for one in filters)

    def structure(self) -> Structure | None:
        """What the output must look like."""
        if self.grammar is None:
            return None
        kind, value = self.grammar.get("type"), self.grammar.get("value")
        if kind == "regex":
            return wanted_structure({"guided_regex": value})
        if kind == "json_schema" and isinstance(value, dict):
            value = value.get("schema", value)
        if kind in ("json", "json_object", "json_schema"):
            return wanted_structure({"guided_json": value})
        raise InvalidRequest(f"grammar.type is {str(kind)[:40]!r}; use json or regex.", "grammar")


class GenerateRequest(RequestBody):
    """`/generate`, `/generate_stream` and `/`."""

    inputs: str
    parameters: Parameters | None = None
    stream: bool | None = None

    def check(self) -> None:
        """Refuse what cannot be honoured."""
        super().check()
        if not self.inputs:
            raise InvalidRequest("`inputs` cannot be empty.", "inputs")
        if self.parameters is None:
            self.parameters = Parameters(do_sample=True)  # without parameters TGI samples; with {} it does not
        self._ignored += self.parameters.check(stream=bool(self.stream))

    @property
    def asked(self) -> Parameters:
        """The parameters; those of a request without any once `check` has seen it."""
        return self.parameters or Parameters()

    def sampling(self, prompt: int, ctx: int) -> SamplingParams:
        """Parameters for a prompt of so many tokens. Raises ContextExceeded, with both numbers."""
        asked = self.asked
        if asked.max_new_tokens is not None and prompt + asked.max_new_tokens > ctx:
            raise ContextExceeded(
                f"`inputs` tokens + `max_new_tokens` must be <= {ctx}. Given: {prompt} `inputs` tokens and "
                f"{asked.max_new_tokens} `max_new_tokens`.",
                "max_new_tokens",
            )
        several = (asked.best_of or 1) > 1
        seed = secrets.randbits(63) if asked.seed is None and asked.samples and not several else asked.seed
        return SamplingParams(
            n=asked.best_of or 1,
            temperature=(1.0 if asked.temperature is None else asked.temperature) if asked.samples else 0.0,
            top_k=asked.top_k or 0,
            top_p=1.0 if asked.top_p is None else asked.top_p,
            typical_p=1.0 if asked.typical_p is None else asked.typical_p,
            repetition_penalty=1.0 if asked.repetition_penalty is None else asked.repetition_penalty,
            frequency_penalty=asked.frequency_penalty or 0.0,
            seed=seed,
            stop=tuple(asked.stop or ()),
            include_stop_str_in_output=True,
            max_tokens=asked.max_new_tokens,
            logprobs=asked.top_n_tokens or 0,
            prompt_logprobs=0 if asked.decoder_input_details else None,
            watermark=bool(asked.watermark),
            structure=asked.structure(),
        )
