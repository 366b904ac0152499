"""What every route needs: the engine, the names it answers to, the chat template and the metrics."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from befit.api.models.settings import as_sampling
from befit.api.reasoning import ReasoningFormat, detect_reasoning
from befit.api.tools.support import ToolSupport
from befit.sampling import recommended

if TYPE_CHECKING:
    from befit.api.chat import ChatTemplate
    from befit.api.fim import FimFormat
    from befit.api.metrics import Metrics
    from befit.engine.async_engine import AsyncEngine
    from befit.tokenizer.base import Tokenizer


@dataclass(slots=True)
class Service:
    """One served model. `names` holds the served name first, then its aliases; `tool_parser`: the format of tool calls,
    if not the one that the model is known by; `settings`: what the model was created with;
    `recommended`: the sampling that requests get which ask for none.
    """

    engine: AsyncEngine
    names: Sequence[str]
    template: ChatTemplate
    metrics: Metrics
    version: str
    fingerprint: str = ""
    tool_parser: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    tools: ToolSupport = field(init=False)
    reasoning: ReasoningFormat | None = field(init=False)
    recommended: Mapping[str, Any] = field(init=False)
    _fim: list[FimFormat | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        config = self.engine.model.config
        seen = f"{self.version}|{self.names[0]}|{self.engine.model.name}|{config.backend}"
        self.fingerprint = "fp_" + hashlib.sha256(seen.encode()).hexdigest()[:12]
        self.tools = ToolSupport.of(self.template, self.tokenizer, self.tool_parser)
        self.recommended = {**recommended(self.engine.model.metadata), **as_sampling(self.settings)}
        self.reasoning = detect_reasoning(self.tokenizer)

    @property
    def ctx(self) -> int:
        """Tokens of prompt and output together that one request may have."""
        return self.engine.model.config.ctx

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokeniser."""
        return self.engine.model.tokenizer

    @property
    def fim(self) -> FimFormat | None:
        """How the model is asked to fill in the middle, or None if it cannot. Looked up when first asked for."""
        if not self._fim:
            from befit.api.fim import FimFormat

            self._fim = [FimFormat.find(self.tokenizer)]
        return self._fim[0]

    def model_name(self, asked: str | None) -> str:
        """The name to answer under: the one asked for where that is one of the model's, else the served name."""
        if not asked:
            return self.names[0]
        known = asked if asked in self.names else asked.removesuffix(":latest")
        return known if known in self.names else self.names[0]
