"""The request bodies of `/infill` and `/completion`, with llama.cpp's names and defaults.

Field meanings and defaults are those of llama.cpp's server (tools/server/README.md). What becomes of other fields is in
`fields.py`.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from befit.api.fim import DEFAULT_PATH, DEFAULT_REPOSITORY, File
from befit.api.llamacpp.fields import HINTS, UNSUPPORTED, chain
from befit.api.openai.fields import check_extra
from befit.api.openai.request_body import RequestBody
from befit.api.openai.types import Strings
from befit.errors import InvalidRequest, UnsupportedField
from befit.sampling import SamplingParams

_RANDOM_SEEDS = (None, -1, 2**32 - 1)


class GenerationRequest(RequestBody):
    """What both endpoints share. `ignored` lists the fields that have no effect."""

    model: str | None = None
    stream: bool | None = None
    n_predict: int | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    repeat_penalty: float | None = None
    repeat_last_n: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    stop: Strings | None = None
    ignore_eos: bool | None = None
    samplers: list[str] | str | None = None
    cache_prompt: bool | None = None
    n_indent: int | None = None
    t_max_predict_ms: float | None = None
    timings_per_token: bool | None = None
    return_tokens: bool | None = None
    response_fields: list[str] | None = None

    def check(self) -> None:
        """Refuse what cannot be honoured, and combinations that contradict each other."""
        self._ignored = check_extra(
            self.model_extra or {}, hints=HINTS, unsupported=UNSUPPORTED, known=type(self).model_fields
        )
        if self.repeat_penalty not in (None, 1) and self.repeat_last_n not in (None, -1):
            raise UnsupportedField(
                f"repeat_last_n is {self.repeat_last_n}; repeat_penalty counts the whole context here: send -1, or "
                "leave one of the two out.",
                "repeat_last_n",
            )
        if self.limit is not None and self.limit < -1:
            raise InvalidRequest(f"n_predict is {self.limit}; it must be -1 (no limit), 0 or more.", "n_predict")

    @property
    def limit(self) -> int | None:
        """Tokens to generate at most; None is no limit, 0 only computes the prompt, for a later request to find."""
        given = self.max_tokens if self.n_predict is None else self.n_predict
        return None if given == -1 else given

    @property
    def chain(self) -> tuple[str, ...]:
        """The samplers that are on."""
        return chain(self.samplers)

    def sampling(self, room: int) -> SamplingParams:
        """Parameters for a prompt that leaves `room` tokens of context.

        A sampler that is not in `samplers` does nothing. Those that are apply in befit's own order. `infill` prefers
        the likeliest token so strongly that it is greedy here; when it ends the text is `Unsure`'s matter.
        """
        samplers = self.chain

        def on(sampler: str, value: Any, default: Any, off: Any) -> Any:
            return (default if value is None else value) if sampler in samplers else off

        return SamplingParams(
            max_tokens=None if self.limit is None else min(self.limit, room),
            temperature=0.0 if "infill" in samplers else max(0.0, on("temperature", self.temperature, 0.8, 1.0)),
            top_k=max(0, on("top_k", self.top_k, 40, 0)),
            top_p=on("top_p", self.top_p, 0.95, 1.0),
            min_p=on("min_p", self.min_p, 0.05, 0.0),
            typical_p=on("typ_p", self.typical_p, 1.0, 1.0),
            repetition_penalty=on("penalties", self.repeat_penalty, 1.0, 1.0),
            presence_penalty=on("penalties", self.presence_penalty, 0.0, 0.0),
            frequency_penalty=on("penalties", self.frequency_penalty, 0.0, 0.0),
            seed=None if self.seed in _RANDOM_SEEDS else self.seed,
            stop=tuple(self.stop or ()),
            ignore_eos=bool(self.ignore_eos),
        )


class Chunk(BaseModel):
    """Text of another file."""

    text: str
    filename: str | None = None


class InfillRequest(GenerationRequest):
    """`/infill`. `prompt` is text between the prefix and the cursor; `input_extra` are other files, the most important
    last. `input_filename` and `input_repository` are befit's own."""

    input_prefix: str | None = None
    input_suffix: str | None = None
    input_extra: list[Chunk] | None = None
    prompt: str | None = None
    input_filename: str | None = None
    input_repository: str | None = None

    @property
    def prefix(self) -> str:
        """The text before the cursor."""
        return (self.input_prefix or "") + (self.prompt or "")

    @property
    def files(self) -> list[File]:
        """The other files."""
        return [File(chunk.filename or DEFAULT_PATH, chunk.text) for chunk in self.input_extra or ()]

    @property
    def names(self) -> dict[str, str]:
        """What the file with the hole and its repository are called."""
        return {
            "path": self.input_filename or DEFAULT_PATH,
            "repository": self.input_repository or DEFAULT_REPOSITORY,
        }


class RawRequest(GenerationRequest):
    """`/completion`. `prompt` is text with control tokens, or token ids."""

    prompt: str | list[int]
