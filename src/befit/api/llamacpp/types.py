"""The request bodies of `/infill` and `/completion`, with llama.cpp's names and defaults.

Field meanings and defaults are those of llama.cpp's server (tools/server/README.md). A field is honoured; or it is
about bookkeeping (`HINTS`); or it is known and refused unless it asks for nothing (`UNSUPPORTED`); or nobody knows it,
and it is named in the header `x-befit-ignored-fields`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, PrivateAttr

from befit.api.fim import DEFAULT_PATH, DEFAULT_REPOSITORY, File
from befit.api.openai.fields import check_extra
from befit.api.openai.types import Strings
from befit.errors import InvalidRequest, UnsupportedField
from befit.sampling import SamplingParams

HINTS = frozenset(
    {
        *("id_slot", "min_keep", "n_discard", "n_keep", "t_max_prompt_ms", "user"),
        *("adaptive_decay", "dry_allowed_length", "dry_base", "dry_penalty_last_n", "dry_sequence_breakers"),
        *("dynatemp_exponent", "mirostat_eta", "mirostat_tau", "xtc_threshold"),
    }
)
"""Accepted, with no effect: there are no slots, a context is never shifted, llama.cpp does nothing with t_max_prompt_ms
either, and the rest shapes samplers that are off unless a field of UNSUPPORTED turns them on."""
_OFF: tuple[Any, ...] = (None, False, 0, "", [], {})


def _off(*values: Any) -> Callable[[Any], bool]:
    return lambda value: value in _OFF or value in values


UNSUPPORTED: Mapping[str, Callable[[Any], bool]] = {
    "adaptive_target": _off(-1),
    "dry_multiplier": _off(),
    "dynatemp_range": _off(),
    "grammar": _off(),
    "image_data": _off(),
    "json_schema": _off(),
    "logit_bias": _off(),
    "lora": _off(),
    "mirostat": _off(),
    "multimodal_data": _off(),
    "n_probs": _off(),
    "post_sampling_probs": _off(),
    "return_progress": _off(),
    "top_n_sigma": _off(-1),
    "xtc_probability": _off(),
}
SAMPLERS = {
    "e": "penalties",
    "k": "top_k",
    "y": "typ_p",
    "p": "top_p",
    "m": "min_p",
    "t": "temperature",
    "i": "infill",
    "d": "dry",
    "x": "xtc",
    "s": "top_n_sigma",
    "a": "adaptive_p",
}
"""By the letters that stand for them when `samplers` is a string."""
DEFAULT_SAMPLERS = ("penalties", "top_k", "typ_p", "top_p", "min_p", "temperature")
_RANDOM_SEEDS = (None, -1, 2**32 - 1)


class GenerationRequest(BaseModel):
    """What both endpoints share."""

    model_config = ConfigDict(extra="allow")

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

    _ignored: list[str] = PrivateAttr(default_factory=list)

    @property
    def ignored(self) -> list[str]:
        """Names of the fields that were sent and that nobody knows."""
        return self._ignored

    def check(self) -> None:
        """Refuse what cannot be honoured, and combinations that contradict each other."""
        self._ignored = check_extra(self.model_extra or {}, hints=HINTS, unsupported=UNSUPPORTED)
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
        if self.samplers is None:
            return DEFAULT_SAMPLERS
        if isinstance(self.samplers, str):
            return tuple(SAMPLERS[letter] for letter in self.samplers if letter in SAMPLERS)
        return tuple(self.samplers)

    def sampling(self, room: int) -> SamplingParams:
        """Parameters for a prompt that leaves `room` tokens of context.

        A sampler that is not in `samplers` does nothing. Those that are apply in befit's own order. `infill` prefers
        the likeliest token so strongly that it is greedy here; when it ends the text is `Unsure`'s matter.
        """
        chain = self.chain

        def on(sampler: str, value: Any, default: Any, off: Any) -> Any:
            return (default if value is None else value) if sampler in chain else off

        return SamplingParams(
            max_tokens=room if self.limit is None else min(self.limit, room),
            temperature=0.0 if "infill" in chain else max(0.0, on("temperature", self.temperature, 0.8, 1.0)),
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
