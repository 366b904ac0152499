"""The bodies of Ollama's requests, with its names and defaults (api/types.go)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

from befit.api.models.fleet import Fleet
from befit.api.models.keep_alive import seconds
from befit.api.openai.fields import check_extra
from befit.api.openai.request_body import RequestBody
from befit.api.openai.types import Strings
from befit.api.service import Service
from befit.errors import InvalidRequest, UnsupportedField
from befit.sampling import MAX_LOGPROBS, SamplingParams
from befit.structure import Structure

LOAD_TIME = frozenset(
    {
        *("f16_kv", "logits_all", "low_vram", "main_gpu", "num_batch", "num_gpu", "num_thread", "numa", "use_mlock"),
        *(
            "use_mmap",
            "vocab_only",
            "num_keep",
            "penalize_newline",
            "draft_num_predict",
            "mirostat_eta",
            "mirostat_tau",
        ),
    }
)
"""Options of how a model is loaded, and of samplers that are off: accepted, with no effect."""

_NONE: tuple[Any, ...] = (None, False, "", 0, [], {})
_UNSUPPORTED_OPTIONS: Mapping[str, Callable[[Any], bool]] = {
    "mirostat": lambda value: value in _NONE,
    "tfs_z": lambda value: value in (*_NONE, 1),
}


class Options(BaseModel):
    """`options`; what is not given has Ollama's default."""

    model_config = ConfigDict(extra="allow")

    num_ctx: int | None = None
    num_predict: int | None = None
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

    def check(self) -> list[str]:
        """Refuse what cannot be honoured; returns the options without effect."""
        ignored = check_extra(
            self.model_extra or {},
            "options.",
            hints=LOAD_TIME,
            unsupported=_UNSUPPORTED_OPTIONS,
            known=type(self).model_fields,
        )
        if self.repeat_last_n not in (None, -1) and self.repeat_penalty not in (None, 1):
            ignored.append("options.repeat_last_n")  # penalties count the whole context
        return ignored

    def sampling(self, room: int, *, logprobs: int | None, structure: Structure | None) -> SamplingParams:
        """Parameters for a prompt that leaves `room` tokens of context."""

        def given(value: Any, default: Any) -> Any:
            return default if value is None else value

        limit = given(self.num_predict, -1)
        return SamplingParams(
            max_tokens=None if limit < 0 else min(limit, room),
            temperature=given(self.temperature, 0.8),
            top_k=max(0, given(self.top_k, 40)),
            top_p=given(self.top_p, 0.9),
            min_p=given(self.min_p, 0.0),
            typical_p=given(self.typical_p, 1.0),
            repetition_penalty=given(self.repeat_penalty, 1.0),
            presence_penalty=given(self.presence_penalty, 0.0),
            frequency_penalty=given(self.frequency_penalty, 0.0),
            seed=None if self.seed in (None, -1) else self.seed,
            stop=tuple(one for one in self.stop or () if one),
            logprobs=logprobs,
            structure=structure,
        )


class ModelRequest(RequestBody):
    """What names a model. keep_alive: how long it stays in memory after this request."""

    model: str | None = None
    name: str | None = None
    keep_alive: float | str | None = None

    _kept: float | None = PrivateAttr(default=None)

    def check(self) -> None:
        """Refuse what cannot be honoured."""
        super().check()
        if self.keep_alive is not None:
            self._kept = seconds(self.keep_alive)

    @property
    def asked(self) -> str | None:
        """The model, under either of the names of the field."""
        return self.model or self.name

    @property
    def unloads(self) -> bool:
        """Whether the model is to go when it is idle."""
        return self.keep_alive is not None and self._kept == 0

    async def served(self, fleet: Fleet) -> Service:
        """The model's service; from now on it stays in memory as long as the request says."""
        service = await fleet.service(self.asked)
        if self.keep_alive is not None and not fleet.keep(await fleet.member(self.asked), self._kept):
            self._ignored = [*self._ignored, "keep_alive"]
        return service


class GenerationRequest(ModelRequest):
    """What `/api/generate` and `/api/chat` share."""

    stream: bool | None = None
    options: Options | None = None
    format: Any = None
    think: bool | str | None = None
    truncate: bool | None = None
    shift: bool | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None

    def check(self) -> None:
        """Refuse what cannot be honoured."""
        super().check()
        if self.options is not None:
            self._ignored += self.options.check()
        if self.shift:
            self._ignored.append("shift")
        if self.think not in (None, True, False, "low", "medium", "high", "max"):
            raise InvalidRequest(f"think is {str(self.think)[:40]!r}; use true, false, low, medium or high.", "think")
        if self.top_logprobs is not None and not 0 <= self.top_logprobs <= MAX_LOGPROBS:
            raise InvalidRequest(
                f"top_logprobs is {self.top_logprobs}; it must be at least 0 and at most {MAX_LOGPROBS}.",
                "top_logprobs",
            )

    @property
    def streams(self) -> bool:
        """Answers are streamed unless that is turned off."""
        return self.stream is not False

    def in_vain(self, switches_thinking: bool) -> list[str]:
        """Fields without effect on this request; switches_thinking: whether the template has a switch for it."""
        return ["think"] if self.think is not None and not switches_thinking else []

    @property
    def template_kwargs(self) -> dict[str, Any]:
        """What templates of models that may think are told."""
        return {} if self.think is None else {"enable_thinking": bool(self.think)}

    def sampling(self, room: int, structure: Structure | None, service: Service) -> SamplingParams:
        """Parameters for a prompt that leaves `room` tokens of context; the model's own where the request has none."""
        logprobs = (self.top_logprobs or 0) if self.logprobs else None
        given = self.options.model_dump(exclude_none=True) if self.options is not None else {}
        options = Options(**{**service.settings.get("parameters", {}), **given})
        return options.sampling(room, logprobs=logprobs, structure=structure)

    def structure(self) -> Structure | None:
        """What the output must look like: JSON, or what a schema says."""
        from befit.api.structure import wanted_structure

        if self.format in (None, ""):
            return None
        if self.format != "json" and not isinstance(self.format, dict):
            raise InvalidRequest(f'format is {str(self.format)[:40]!r}; use "json" or a JSON schema.', "format")
        schema = {"type": "object"} if self.format == "json" else self.format
        return wanted_structure({"guided_json": schema})


class GenerateRequest(GenerationRequest):
    """`/api/generate`."""

    prompt: str | None = None
    suffix: str | None = None
    system: str | None = None
    template: str | None = None
    context: list[int] | None = None
    raw: bool | None = None
    images: list[Any] | None = None

    def check(self) -> None:
        """Refuse what cannot be honoured."""
        super().check()
        if self.images:
            raise UnsupportedField("images: the model reads text only; leave them out.", "images")
        if self.template:
            raise UnsupportedField(
                "template: the model's own is used; start the server with --chat-template.", "template"
            )
        if self.raw and (self.system or self.context):
            raise InvalidRequest("raw goes without template, system and context; leave them out.", "raw")
        if self.suffix and (self.raw or self.context or self.format):
            raise InvalidRequest("suffix goes without raw, context and format; leave them out.", "suffix")

    def in_vain(self, switches_thinking: bool) -> list[str]:
        """Also what a prompt that goes past the chat template does not need."""
        plain = bool(self.raw or self.suffix)
        return [*super().in_vain(switches_thinking and not plain), *(["system"] if self.suffix and self.system else [])]


class ChatRequest(GenerationRequest):
    """`/api/chat`."""

    messages: list[dict[str, Any]] | None = None
    tools: list[dict[str, Any]] | None = None


class EmbedRequest(ModelRequest):
    """`/api/embed` and, with `prompt`, `/api/embeddings`."""

    input: Any = None
    prompt: str | None = None
    truncate: bool | None = None
    dimensions: int | None = None
    options: Options | None = None


class PullRequest(ModelRequest):
    """`/api/pull`. insecure: has no effect; downloads are checked."""

    stream: bool | None = None

    def check(self) -> None:
        """Refuse what cannot be honoured."""
        insecure = (self.model_extra or {}).pop("insecure", None)
        super().check()
        self._ignored = [*self._ignored, *(["insecure"] if insecure else [])]


class CopyRequest(RequestBody):
    """`/api/copy`."""

    source: str | None = None
    destination: str | None = None


class CreateRequest(ModelRequest):
    """`/api/create`."""

    stream: bool | None = None
    source: str | None = Field(None, alias="from")
    files: dict[str, str] | None = None
    adapters: dict[str, str] | None = None
    template: str | None = None
    system: str | None = None
    license: str | list[str] | None = None
    parameters: Options | None = None
    messages: list[Any] | None = None
    quantize: str | None = None

    def check(self) -> None:
        """Refuse what cannot be honoured."""
        (self.model_extra or {}).pop("from", None)
        super().check()
        if self.adapters:
            raise UnsupportedField("adapters: befit does not apply them; give the merged model.", "adapters")
        if self.messages:
            raise UnsupportedField("messages: a model has no conversation of its own; leave them out.", "messages")
        if self.parameters is not None:
            self._ignored += [name.replace("options.", "parameters.") for name in self.parameters.check()]


class ShowRequest(ModelRequest):
    """`/api/show`."""

    verbose: bool | None = None
