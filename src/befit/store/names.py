"""Names of models: `family:tag`, in characters that are safe as folder names everywhere."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from befit.errors import ModelNotFound

_PART = r"[a-z0-9][a-z0-9._-]{0,63}"
_NAME = re.compile(rf"({_PART})(?::({_PART}))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class ModelName:
    """A parsed name; `tag` is None when the user left it out (`smollm2` for `smollm2:135m`)."""

    family: str
    tag: str | None

    def __str__(self) -> str:
        return self.family if self.tag is None else f"{self.family}:{self.tag}"

    def matches(self, full: ModelName) -> bool:
        """Whether this name, perhaps without its tag, means the model that is called `full`."""
        return self.family == full.family and self.tag in (None, full.tag)


def parse(text: str) -> ModelName | None:
    """The name that `text` spells, upper or lower case, or None when it cannot be one."""
    match = _NAME.fullmatch(text.lower())
    return ModelName(match[1], match[2]) if match else None


def require(text: str) -> ModelName:
    """Like `parse`, but raises `ModelNotFound` for what cannot be a name."""
    name = parse(text)
    if name is None:
        raise ModelNotFound(
            f"{text!r} is no model name and no file. A name is FAMILY:TAG in letters, digits, '.', '_' and '-', "
            "each part 64 characters at most; a file is the path of a .gguf, or of a model's folder."
        )
    return name


def looks_like_path(text: str) -> bool:
    """Whether a user who wrote `text` meant a file, be it there or not."""
    return os.sep in text or text.startswith(("~", ".")) or text.lower().endswith(".gguf")
