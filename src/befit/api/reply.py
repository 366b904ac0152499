"""What the answer to a chat has to be, and taking it apart: the same for every protocol that has chats."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

from befit.api.generation import prepare
from befit.api.message import MessageParser
from befit.api.reasoning import ReasoningSplitter
from befit.api.service import Service
from befit.api.structure import behind_reasoning
from befit.api.tools.request import ToolUse
from befit.errors import InvalidRequest
from befit.sampling import SamplingParams

log = logging.getLogger(__name__)

_TAIL = 8  # tokens of a prompt that show how it ends


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to one prompt. use: the tools that may be called. opened: the prompt ends within thoughts."""

    service: Service
    use: ToolUse | None
    opened: bool

    @classmethod
    def to(cls, service: Service, prompt_ids: list[int], use: ToolUse | None) -> Reply:
        """The answer to this prompt."""
        tail = service.tokenizer.decode(prompt_ids[-_TAIL:], skip_special=False)
        return cls(service, use, service.reasoning is not None and service.reasoning.opened_by(tail))

    async def confined(self, params: SamplingParams) -> SamplingParams:
        """The parameters with the structure that the output must have, ready to be used, and the tokens that mark
        parts. Raises InvalidRequest or UnsupportedField for a structure that cannot be had."""
        service, use = self.service, self.use
        structure, wanted = params.structure, params.structure
        shown: set[int] = set()
        if use is not None:
            structure = service.tools.structure(use, wanted)
            shown.update(service.tools.form.shown_tokens(service.tokenizer))
        if service.reasoning is not None:
            shown.update(service.reasoning.shown_tokens)
            if structure is not None:
                structure = behind_reasoning(structure, service.reasoning, opened=self.opened)
        if structure is not None:
            try:
                await prepare(service.engine, structure)
            except InvalidRequest as error:
                # Tools that may be called need no grammar: their schemas are then a hint to the model, as elsewhere.
                may = use is not None and use.mode == "auto" and not any(tool.strict for tool in use.tools)
                if not may or wanted is not None:
                    raise
                log.debug("tool calls are not confined: %s", error)
                structure = None
        return replace(params, structure=structure, shown_tokens=tuple(sorted(shown)))

    def parser(self) -> MessageParser | None:
        """For one message; None when there is nothing to take apart."""
        form = self.service.reasoning
        reasoning = ReasoningSplitter(form, opened=self.opened) if form is not None else None
        tools = self.service.tools.form.read(self.use.names) if self.use is not None else None
        return MessageParser(reasoning, tools) if reasoning is not None or tools is not None else None
