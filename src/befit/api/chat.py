"""Chat templates: a conversation as the text, or the token ids, that the model was trained on.

A template is Jinja2 and comes with the model file. It runs in a sandbox, and sees what Hugging Face transformers'
`apply_chat_template` gives it, which is what templates are written for.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from jinja2.exceptions import TemplateError as JinjaError

from befit.api.chat_messages import as_parts, attempts, plain_messages
from befit.api.chat_sandbox import LimitError, RefusedError, Sandbox
from befit.api.chat_sources import choose
from befit.errors import InvalidRequest, TemplateError, UnsupportedField
from befit.tokenizer.base import Tokenizer

_REASONING_MARKERS = {"<think>", "</think>"}
"""Templates look for these in earlier replies; they are never protected."""


class ChatTemplate:
    """Renders conversations. `source` says in a line which template this is and why; `takes_tools`, whether it writes
    out the tools of a request.

    Messages that a template refuses, as many do with system messages or two messages of one role in a row, are joined
    and tried again (see `chat_messages.attempts`). So are system messages that a template would leave out.
    """

    def __init__(
        self,
        template: str,
        tokenizer: Tokenizer,
        *,
        source: str,
        tool_use: str | None = None,
        special_tokens: Mapping[str, str] | None = None,
        system: str = "",
    ) -> None:
        """tool_use: the template for requests with tools, if it is another. special_tokens: bos_token and so on.
        system: what a conversation without a system message begins with."""
        self.system = system
        self.text = template
        self.source = source
        self._tokenizer = tokenizer
        self._sandbox = Sandbox(special_tokens or {"bos_token": "", "eos_token": ""})
        self._texts = (template, tool_use or "")
        try:
            self._template = self._sandbox.template(template)
            self._tool_use = self._sandbox.template(tool_use) if tool_use is not None else self._template
            self.takes_tools = self._sandbox.uses(template if tool_use is None else tool_use, "tools")
        except JinjaError as error:
            line = getattr(error, "lineno", None)
            where = f" at line {line}" if line else ""
            raise TemplateError(
                f"The chat template ({source}) is not valid Jinja2{where}: {error}. Give another with --chat-template."
            ) from error
        self._parts = self._sandbox.wants_parts(template)
        self._drops_system: bool | None = None
        self._spellings: re.Pattern[str] | None = None

    @cached_property
    def switches_thinking(self) -> bool:
        """Whether the template looks at `enable_thinking`, as those of models that may think do."""
        return self._sandbox.uses(self.text, "enable_thinking")

    @property
    def tool_text(self) -> str:
        """The template that requests with tools get."""
        return self._texts[1] or self._texts[0]

    @classmethod
    def from_metadata(
        cls,
        metadata: Mapping[str, Any],
        tokenizer: Tokenizer,
        file: str | Path | None = None,
        *,
        beside: Path | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> ChatTemplate:
        """The template that `chat_sources.choose` finds: `file`, which may also be a template's name, if it is given;
        else the model's own; else one beside the model file; else the fallback for its family. settings: what the model
        was created with, whose template is its own then, and whose system message is used.

        Raises ConfigError for a file that cannot be read and TemplateError for a template that does not compile.
        """
        settings = settings or {}
        found = choose(metadata, tokenizer, given=file, beside=beside, created=settings.get("template"))
        return cls(
            found.text,
            tokenizer,
            source=found.why,
            tool_use=found.tool_use,
            special_tokens=_special_tokens(metadata, tokenizer),
            system=settings.get("system") or "",
        )

    @property
    def drops_system(self) -> bool:
        """Whether the template refuses system messages, or leaves them out; they then go into the user's."""
        if self._drops_system is None:
            number = _unused_number([self._texts])
            messages = [{"role": "system", "content": number}, {"role": "user", "content": "x"}]
            try:
                self._drops_system = number not in self._once(messages, None, True, {})
            except Exception:  # templates may fail in any way that Python expressions can
                self._drops_system = True
        return self._drops_system

    def with_system(self, messages: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
        """The messages, behind the template's system message where they have none."""
        if not self.system or any(message.get("role") in ("system", "developer") for message in messages):
            return messages
        return [{"role": "system", "content": self.system}, *messages]

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        **kwargs: Any,
    ) -> str:
        """The conversation as text, for `encode(text, add_special=False)`: BOS is the template's own to write.

        add_generation_prompt opens the assistant's reply; continue_final_message leaves the last message open instead,
        to be gone on with. Other keyword arguments are variables of the template (`documents`, `enable_thinking`, …).
        Raises InvalidRequest for messages that are none, UnsupportedField for parts of them that are not text, and
        TemplateError when the template refuses them or runs away.
        """
        prepared = plain_messages(self.with_system(messages))
        if not continue_final_message:
            return self._render(prepared, tools, add_generation_prompt, kwargs)
        if add_generation_prompt:
            raise InvalidRequest(
                "continue_final_message and add_generation_prompt exclude each other; set one of them to false.",
                "continue_final_message",
            )
        end = _unused_number([self._texts, prepared, tools, kwargs])
        prepared[-1]["content"] += end
        text, found, _ = self._render(prepared, tools, False, kwargs).partition(end)
        if not found:
            raise TemplateError(
                f"The chat template ({self.source}) leaves out the last message, so it cannot be continued."
            )
        return text

    def encode(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        add_special: bool = False,
        **kwargs: Any,
    ) -> list[int]:
        """The conversation as token ids. Messages cannot forge control tokens.

        Control tokens come from the template alone: their spellings inside messages and tools are encoded as the plain
        text that they are, so that a quoted `<|im_end|>` ends no turn. (Exempt are <think> and </think>, which
        templates themselves look for in earlier replies.) Without such spellings the ids are those of
        `encode(render(...), add_special=False)`. add_special: also put the tokeniser's BOS in front, unless the
        template has put it there.
        """
        conversation: tuple[Any, ...] = (plain_messages(self.with_system(messages)), tools, kwargs)
        found: dict[str, str] = {}  # spelling → the number that stands for it
        quoted = {spelling for text in _strings(conversation) for spelling in self._control.findall(text)}
        quoted -= _REASONING_MARKERS
        if quoted:
            number = _unused_number([self._texts, conversation])
            found = {spelling: f"{number}{at:06}" for at, spelling in enumerate(sorted(quoted))}
            pattern = re.compile("|".join(map(re.escape, sorted(quoted, key=len, reverse=True))))
            conversation = _replace(conversation, lambda text: pattern.sub(lambda match: found[match[0]], text))
        messages, tools, kwargs = conversation
        text = self.render(
            messages,
            tools=tools,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            **kwargs,
        )
        if found:
            ids = self._encode_around(text, {number: spelling for spelling, number in found.items()})
        else:
            ids = self._tokenizer.encode(text, add_special=False)
        bos = self._tokenizer.bos_id
        if add_special and self._tokenizer.adds_bos and bos is not None and ids[:1] != [bos]:
            ids.insert(0, bos)
        return ids

    def _encode_around(self, text: str, spellings: Mapping[str, str]) -> list[int]:
        """Ids of a rendered text in which numbers stand for spellings that are to stay plain text."""
        numbers = re.compile("|".join(spellings))
        ids: list[int] = []
        start = 0
        for match in self._control.finditer(text):
            ids += self._encode_plain(numbers.sub(lambda found: spellings[found[0]], text[start : match.start()]))
            ids.append(self._tokenizer.control_tokens[match[0]])
            start = match.end()
        return ids + self._encode_plain(numbers.sub(lambda found: spellings[found[0]], text[start:]))

    def _encode_plain(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special=False, parse_special=False) if text else []

    @property
    def _control(self) -> re.Pattern[str]:
        """Matches the spellings of control tokens, the longest at a place, as the tokeniser does."""
        if self._spellings is None:
            self._spellings = _pattern(self._tokenizer.control_tokens)
        return self._spellings

    def _render(
        self,
        messages: list[dict[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None,
        add_generation_prompt: bool,
        kwargs: Mapping[str, Any],
    ) -> str:
        if tools and not self.takes_tools:
            raise UnsupportedField(f"The chat template ({self.source}) has no place for tools.", "tools")
        failure: Exception | None = None
        system = any(message["role"] == "system" for message in messages)
        for attempt in attempts(messages, fold_system=system and self.drops_system):
            try:
                return self._once(attempt, tools, add_generation_prompt, kwargs)
            except LimitError as error:
                raise TemplateError(f"The chat template ({self.source}) was stopped: {error}") from error
            except RecursionError as error:
                raise TemplateError(f"The chat template ({self.source}) calls itself without end.") from error
            except Exception as error:  # templates may fail in any way that Python expressions can
                failure = failure or error
        if isinstance(failure, RefusedError):
            raise TemplateError(f"The chat template ({self.source}) refused the messages: {failure}") from failure
        raise TemplateError(
            f"The chat template ({self.source}) failed on these messages: {type(failure).__name__}: {failure}"
        ) from failure

    def _once(
        self,
        messages: list[dict[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None,
        add_generation_prompt: bool,
        kwargs: Mapping[str, Any],
    ) -> str:
        return self._sandbox.render(
            self._tool_use if tools else self._template,
            {
                "documents": None,
                **kwargs,
                "messages": as_parts(messages) if self._parts else messages,
                "tools": list(tools) if tools else None,
                "add_generation_prompt": add_generation_prompt,
            },
        )


def _special_tokens(metadata: Mapping[str, Any], tokenizer: Tokenizer) -> dict[str, str]:
    """Variables of the template: spellings of BOS, EOS and so on, "" where the model has none."""
    sentencepiece_eos = 2 if metadata.get("tokenizer.ggml.model") == "llama" else None
    ids = {
        "bos_token": tokenizer.bos_id,
        "eos_token": metadata.get("tokenizer.ggml.eos_token_id", sentencepiece_eos),
        "unk_token": metadata.get("tokenizer.ggml.unknown_token_id"),
        "pad_token": metadata.get("tokenizer.ggml.padding_token_id"),
    }
    return {
        variable: tokenizer.token_text(token) if isinstance(token, int) and 0 <= token < tokenizer.vocab_size else ""
        for variable, token in ids.items()
    }


def _strings(value: Any) -> Iterator[str]:
    """Every string in a structure of lists and mappings."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _strings(item)


def _replace(value: Any, change: Callable[[str], str]) -> Any:
    """A copy of the structure with its strings changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {key: _replace(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_replace(item, change) for item in value)
    return value


def _unused_number(texts: Any) -> str:
    """A number of 24 digits that is in none of the texts, to stand for something else while a template runs.

    Digits pass every filter that templates apply, JSON among them. It has its only 1 in front, so that no digits
    around it can make it begin anywhere else.
    """
    present = list(_strings(texts))
    while True:
        number = "1" + "".join(secrets.choice("023456789") for _ in range(23))
        if not any(number in text for text in present):
            return number


def _pattern(spellings: Iterable[str]) -> re.Pattern[str]:
    """Matches any of the spellings, the longest at a place. Thousands of them share their beginnings, so that a
    place where none matches is known after a character or two."""

    def branch(rests: list[str]) -> str:
        """rests: sorted and distinct."""
        groups: dict[str, list[str]] = {}
        for rest in rests:
            if rest:
                groups.setdefault(rest[0], []).append(rest[1:])
        options = [re.escape(first) + branch(after) for first, after in groups.items()]
        if not options:
            return ""
        body = options[0] if len(options) == 1 and "" not in rests else f"(?:{'|'.join(options)})"
        return f"{body}?" if "" in rests else body

    distinct = sorted(set(spellings))
    return re.compile(branch(distinct) if distinct else r"(?!)")
