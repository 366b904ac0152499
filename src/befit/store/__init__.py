"""Models on this machine: names, the catalogue, fetching, and the folder they live in.

>>> from befit import store
>>> store.resolve("smollm2:135m")  # fetches it on first use
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from befit.store.catalogue import CATALOGUE, DEFAULT_MODEL, Entry
    from befit.store.fetch import pull
    from befit.store.layout import Manifest, ModelRow, home, list_models
    from befit.store.lookup import is_build, is_known, is_model_folder, resolve

__all__ = [
    "CATALOGUE",
    "DEFAULT_MODEL",
    "Entry",
    "Manifest",
    "ModelRow",
    "home",
    "is_build",
    "is_known",
    "is_model_folder",
    "list_models",
    "pull",
    "resolve",
]

# Looked up on first use: --help wants the default model's name and nothing else.
_HOMES = {
    "catalogue": ("CATALOGUE", "DEFAULT_MODEL", "Entry"),
    "fetch": ("pull",),
    "layout": ("Manifest", "ModelRow", "home", "list_models"),
    "lookup": ("is_build", "is_known", "is_model_folder", "resolve"),
}


def __getattr__(name: str) -> Any:
    for module, exported in _HOMES.items():
        if name in exported:
            return getattr(import_module(f"befit.store.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
