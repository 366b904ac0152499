"""Token counts of one request, as OpenAI's `usage` object."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(slots=True)
class Usage:
    """Tokens of all prompts, of all continuations, and of the prompts found in the prefix cache."""

    prompt: int
    completion: int = 0
    cached: int = 0

    def render(self) -> dict[str, Any]:
        """The `usage` object."""
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
            "prompt_tokens_details": {"cached_tokens": self.cached},
        }
