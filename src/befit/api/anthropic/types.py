"""The body of `/v1/messages`, and the chat that it asks for.

Fields are those of Anthropic's Messages API; what a field means for the prompt is in `content.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from befit.api.anthropic.content import system_message, to_messages
from befit.api.openai.fields import check_extra
from befit.api.openai.request_body import RequestBody, build, renamed
from befit.api.openai.types import ChatRequest
from befit.errors import InvalidRequest, UnsupportedField

if TYPE_CHECKING:
    from befit.api.chat import ChatTemplate

HINTS = frozenset(
    {
        *("betas", "cache_control", "diagnostics", "inference_geo", "metadata", "service_tier", "speed"),
        *("user_profile_id", "workspace_id"),
    }
)
"""Accepted, with no effect: who asks, where, and what is to be cached (every prompt is)."""

UNSUPPORTED: Mapping[str, Callable[[Any], bool]] = {
    name: lambda value: value in (None, [], {}) for name in ("container", "context_management", "mcp_servers")
}
_PARAMS = {"stop": "stop_sequences", "response_format": "output_config"}
_NAMES_OF_CHOICES = {"auto": "auto", "any": "required", "none": "none"}


class CountRequest(RequestBody):
    """`/v1/messages/count_tokens`: what the prompt depends on."""

    model: str | None = None
    messages: list[dict[str, Any]]
    system: Any = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: dict[str, Any] | None = None
    thinking: dict[str, Any] | None = None
    output_config: dict[str, Any] | None = None

    def check(self) -> None:
        """Refuse what cannot be honoured."""
        self._ignored = check_extra(
            self.model_extra or {}, hints=HINTS, unsupported=UNSUPPORTED, known=type(self).model_fields
        )
        if "budget_tokens" in (self.thinking or {}):
            self._ignored.append("thinking.budget_tokens")
        if self.output_config:
            self._ignored += check_extra(
                {name: value for name, value in self.output_config.items() if name != "format"},
                "output_config.",
                hints=frozenset({"effort"}),
                unsupported={},
            )

    def chat(self) -> ChatRequest:
        """The same as a chat."""
        fields = {name: value for name, value in self._fields().items() if value is not None}
        with own_names():
            return build(ChatRequest, fields)

    def _fields(self) -> dict[str, Any]:
        messages = to_messages(self.messages)
        choice, parallel = _tool_choice(self.tool_choice)
        return {
            "model": self.model,
            "messages": [*system_message(self.system), *messages],
            "continue_final_message": messages[-1]["role"] == "assistant" or None if messages else None,
            "tools": [_tool(at, tool) for at, tool in enumerate(self.tools)] if self.tools else None,
            "tool_choice": choice,
            "parallel_tool_calls": parallel,
            "chat_template_kwargs": self._thinking(),
            "response_format": (self.output_config or {}).get("format"),
        }

    def switches_in_vain(self, template: ChatTemplate) -> list[str]:
        """`thinking`, where the model's template has no switch for it."""
        asked = self._thinking() is not None
        return ["thinking"] if asked and not template.switches_thinking else []

    def _thinking(self) -> dict[str, Any] | None:
        """Templates of models that may think have a switch for it. How long they do is theirs to say."""
        if self.thinking is None:
            return None
        kind = self.thinking.get("type")
        if kind not in ("enabled", "disabled", "adaptive"):
            raise InvalidRequest(f"thinking.type is {str(kind)[:40]!r}; use enabled, disabled or adaptive.", "thinking")
        return None if kind == "adaptive" else {"enable_thinking": kind == "enabled"}


class MessagesRequest(CountRequest):
    """`/v1/messages`."""

    max_tokens: int
    stream: bool | None = None
    stop_sequences: list[str] | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None

    def check(self) -> None:
        """Refuse what cannot be honoured."""
        super().check()
        if self.max_tokens < 1:
            raise InvalidRequest(f"max_tokens is {self.max_tokens}; it must be at least 1.", "max_tokens")

    def _fields(self) -> dict[str, Any]:
        return {
            **super()._fields(),
            "max_tokens": self.max_tokens,
            "stop": self.stop_sequences,
            "temperature": self.temperature,
            "top_k": self.top_k,
            "top_p": self.top_p,
        }


def own_names() -> AbstractContextManager[None]:
    """Within it, an error about a field of a chat names this protocol's field."""
    return renamed(_PARAMS)


def _tool_choice(choice: Mapping[str, Any] | None) -> tuple[Any, bool | None]:
    """OpenAI's tool_choice and parallel_tool_calls."""
    if choice is None:
        return None, None
    kind = choice.get("type")
    parallel = False if choice.get("disable_parallel_tool_use") else None
    if kind == "tool" and isinstance(choice.get("name"), str):
        return {"type": "function", "function": {"name": choice["name"]}}, parallel
    if kind not in _NAMES_OF_CHOICES:
        raise InvalidRequest(
            f"tool_choice is {str(dict(choice))[:80]}; use the type auto, any, none, or tool with its name.",
            "tool_choice",
        )
    return _NAMES_OF_CHOICES[kind], parallel


def _tool(at: int, tool: Mapping[str, Any]) -> dict[str, Any]:
    kind = tool.get("type") or "custom"
    if kind != "custom":
        raise UnsupportedField(
            f"tools[{at}] is of type {str(kind)[:60]!r}, which the provider's own servers run; only custom tools can "
            "be called here.",
            "tools",
        )
    function = {
        "name": tool.get("name"),
        "description": tool.get("description"),
        "parameters": tool.get("input_schema"),
        "strict": tool.get("strict"),
    }
    return {"type": "function", "function": {name: value for name, value in function.items() if value is not None}}
