"""The body of `POST /v1/responses`, and the chat request that says the same."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from befit.api.openai.request_body import build, renamed
from befit.api.openai.types import ChatRequest, GenerationRequest
from befit.errors import InvalidRequest, UnsupportedField
from befit.sampling import MAX_LOGPROBS

LOGPROBS = "message.output_text.logprobs"
_INCLUDABLE = {
    LOGPROBS,
    # About kinds of items that do not occur here, so that there is nothing to include.
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
    "file_search_call.results",
    "message.input_image.image_url",
    "reasoning.encrypted_content",
    "web_search_call.action.sources",
    "web_search_call.results",
}
_NOT_HERE = ("n", "prompt_logprobs", "response_format", "return_token_ids", "return_tokens_as_token_ids")
_OWN = {"model", "stream", "stream_options", "max_tokens", "priority", "cache_salt", "request_id", *_NOT_HERE}
_PARAMS = {
    "messages": "input",
    "max_completion_tokens": "max_output_tokens",
    "max_tokens": "max_output_tokens",
    "reasoning_effort": "reasoning",
    "response_format": "text",
}
MAX_METADATA = 16


class ResponseRequest(GenerationRequest):
    """OpenAI's fields, and the sampling fields of the other endpoints."""

    input: Any = None
    instructions: str | None = None
    previous_response_id: str | None = None
    max_output_tokens: int | None = None
    top_logprobs: int | None = None
    include: list[str] | None = None
    store: bool | None = None
    background: bool | None = None
    truncation: str | None = None
    text: dict[str, Any] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: Any = None
    max_tool_calls: int | None = None
    parallel_tool_calls: bool | None = None
    reasoning: dict[str, Any] | None = None
    metadata: dict[str, str] | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    def check(self) -> None:
        """Refuse contradictions, and what is not done here."""
        super().check()
        if self.max_tokens is not None:
            raise UnsupportedField("max_tokens is not a field of this request; use max_output_tokens.", "max_tokens")
        for name in _NOT_HERE:
            if getattr(self, name) not in (None, False) and not (name == "n" and self.n == 1):
                raise UnsupportedField(f"{name} is not supported here; leave it out.", name)
        if self.max_output_tokens is not None and self.max_output_tokens < 1:
            raise InvalidRequest(
                f"max_output_tokens is {self.max_output_tokens}; it must be at least 1.", "max_output_tokens"
            )
        if self.top_logprobs is not None and not 0 <= self.top_logprobs <= MAX_LOGPROBS:
            raise InvalidRequest(
                f"top_logprobs is {self.top_logprobs}; it must be at least 0 and at most {MAX_LOGPROBS}.",
                "top_logprobs",
            )
        unknown = next((name for name in self.include or () if name not in _INCLUDABLE), None)
        if unknown is not None:
            raise UnsupportedField(f"include names {unknown[:60]!r}, which is not known here.", "include")
        if self.truncation not in (None, "auto", "disabled"):
            raise InvalidRequest(f"truncation is {self.truncation[:60]!r}; it must be auto or disabled.", "truncation")
        if self.background and self.store is False:
            raise InvalidRequest("background needs store: the answer is fetched from there.", "background")
        if self.metadata is not None and len(self.metadata) > MAX_METADATA:
            raise InvalidRequest(f"metadata has {len(self.metadata)} pairs; at most {MAX_METADATA}.", "metadata")
        self._check_options()

    def _check_options(self) -> None:
        text_format = (self.text or {}).get("format")
        if text_format is not None and not isinstance(text_format, dict):
            raise InvalidRequest("text.format must be an object.", "text")
        for name, value in (self.text or {}).items():
            if name != "format" and not (name == "verbosity" and value in (None, "medium")):
                raise UnsupportedField(f"text.{name[:60]} ({str(value)[:60]}) is not supported here.", "text")
        for name, value in (self.reasoning or {}).items():
            if value is not None and not (name == "effort" and value == "none"):
                raise UnsupportedField(f"reasoning.{name[:60]} ({str(value)[:60]}) is not supported here.", "reasoning")

    @property
    def wants_logprobs(self) -> bool:
        """Whether the text comes with log-probabilities."""
        return bool(self.top_logprobs) or LOGPROBS in (self.include or ())

    def chat(self, messages: list[dict[str, Any]]) -> ChatRequest:
        """The chat request that asks for the same. Raises what that would refuse, under this request's names."""
        shared = (name for name in GenerationRequest.model_fields if name not in _OWN)
        fields: dict[str, Any] = {name: getattr(self, name) for name in shared}
        if self.instructions is not None:
            messages = [{"role": "system", "content": self.instructions}, *messages]
        fields["messages"] = messages
        fields["max_completion_tokens"] = self.max_output_tokens
        fields["chat_template_kwargs"] = self.chat_template_kwargs
        fields["response_format"] = (self.text or {}).get("format")
        if self.wants_logprobs:
            fields.update(logprobs=True, top_logprobs=self.top_logprobs)
        with own_names():
            return build(ChatRequest, {name: value for name, value in fields.items() if value is not None})


def own_names() -> AbstractContextManager[None]:
    """Within it, an error about a field of a chat names this protocol's field."""
    return renamed(_PARAMS)
