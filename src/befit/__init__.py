"""befit: a server for code language models that fits itself to the machine it is given.

`LLM` generates in this process, `AsyncEngine` serves an asyncio program; both take `SamplingParams`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from befit.engine.async_engine import AsyncEngine
    from befit.llm import LLM
    from befit.sampling import SamplingParams

    __version__: str

__all__ = ["LLM", "AsyncEngine", "SamplingParams", "__version__"]

# Looked up on first use, so that `import befit` costs nothing.
_HOMES = {"LLM": "befit.llm", "AsyncEngine": "befit.engine.async_engine", "SamplingParams": "befit.sampling"}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version()
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("befit")
    except PackageNotFoundError:  # run from a source tree
        return "0.1.0"
