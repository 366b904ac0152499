"""Tools of one served model: what goes into its prompt, and how its calls are read and confined."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from befit.api.chat_messages import plain_messages
from befit.api.tools.fallback import without_tools
from befit.api.tools.formats import NAMES, ToolFormat, detect
from befit.api.tools.request import ToolUse
from befit.errors import ConfigError, InvalidRequest
from befit.structure import Structure
from befit.tokenizer.base import Tokenizer

if TYPE_CHECKING:
    from befit.api.chat import ChatTemplate

_MARKED = '"\\u0001"'  # see `Structure.begun`
_SHORT_ID = re.compile(r"[A-Za-z0-9]{9}")
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True, slots=True)
class ToolSupport:
    """How one model, with one chat template, calls tools. `why` says what the format was chosen by."""

    template: ChatTemplate
    tokenizer: Tokenizer
    form: ToolFormat
    why: str

    @classmethod
    def of(cls, template: ChatTemplate, tokenizer: Tokenizer, name: str | None = None) -> ToolSupport:
        """name: a format of `formats.NAMES` to use instead of the one that template and vocabulary tell."""
        if name is not None and name not in NAMES:
            raise ConfigError(f"The tool parser is {name!r}; use one of {', '.join(NAMES)}.")
        return cls(template, tokenizer, *detect(template.tool_text, template.takes_tools, tokenizer, name))

    def messages(
        self, messages: Sequence[Mapping[str, Any]], use: ToolUse | None
    ) -> tuple[Sequence[Mapping[str, Any]], list[dict[str, Any]] | None]:
        """The messages and tools to render. Without a place for tools in the template, all is in the messages."""
        with_calls = any(message.get("tool_calls") or message.get("role") == "tool" for message in messages)
        if with_calls:
            messages = plain_messages(messages)
            _check_calls(messages)
        if not self.template.takes_tools:
            if use is not None or with_calls:
                messages = self.template.with_system(messages)
                messages = without_tools(plain_messages(messages), self.form, use)
            return messages, None
        if with_calls and self.form.short_ids:
            messages = [_short_ids(message) for message in messages]
        return messages, use.raw if use is not None else None

    def structure(self, use: ToolUse, answer: Structure | None) -> Structure | None:
        """What the output must be: calls where they are required, or else free until a call begins.

        answer: the structure that the request wants of an answer in words; only JSON goes with tools.
        """
        forced = use.mode == "required"
        if answer is not None and not forced and answer.kind != "json":
            raise InvalidRequest(f"{answer.param} does not go with tools, except for a JSON schema.", answer.param)
        rules = self.form.grammar(use.callable, self.tokenizer, several=use.several, param="tools")
        if forced:
            return Structure("grammar", f"%llguidance {{}}\nstart: calls\n{rules}", param="tools")
        if answer is not None:
            start = f"start: calls | answer\nanswer: %json {answer.text}"
            return Structure("grammar", f"%llguidance {{}}\n{start}\n{rules}", param=answer.param)
        start = f"{_MARKED} triggered" if self.form.bare else "triggered"
        start = " | ".join([*([start] if self.form.trigger else []), *(["begun"] if self.form.bare else [])])
        return Structure(
            "grammar",
            f"%llguidance {{}}\nstart: {start}\n{rules}",
            after=self.form.trigger,
            begun=self.form.begun(use.callable) if self.form.bare else "",
            again=use.several,
            param="tools",
        )


def _check_calls(messages: Sequence[Mapping[str, Any]]) -> None:
    for at, message in enumerate(messages):
        for call in message.get("tool_calls") or ():
            function = call.get("function") if isinstance(call, Mapping) else None
            if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
                raise InvalidRequest(f"messages[{at}].tool_calls holds a call without function.name.", "messages")


def _short_ids(message: Mapping[str, Any]) -> dict[str, Any]:
    """Mistral's templates take ids of nine letters and digits only; another id becomes one that is made of it."""
    changed = dict(message)
    if isinstance(message.get("tool_call_id"), str):
        changed["tool_call_id"] = _short_id(message["tool_call_id"])
    if message.get("tool_calls"):
        changed["tool_calls"] = [{**call, "id": _short_id(str(call.get("id", "")))} for call in message["tool_calls"]]
    return changed


def _short_id(name: str) -> str:
    if _SHORT_ID.fullmatch(name):
        return name
    return "".join(_DIGITS[byte % 62] for byte in hashlib.sha256(name.encode()).digest()[:9])
