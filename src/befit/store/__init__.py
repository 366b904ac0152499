"""Models on this machine: names, the catalogue, fetching, and the folder they live in.

>>> from befit import store
>>> store.resolve("smollm2:135m")  # fetches it on first use
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from befit.store.catalogue import DEFAULT_MODEL
    from befit.store.fetch import pull
    from befit.store.inventory import disk_usage, list_models
    from befit.store.layout import Manifest, ModelRow, home, settings
    from befit.store.lookup import find, full_name, is_build, is_known, is_model_folder, is_reference, resolve
    from befit.store.manage import copy, removal, remove_unfinished, store_files

__all__ = [
    "DEFAULT_MODEL",
    "Manifest",
    "ModelRow",
    "copy",
    "disk_usage",
    "find",
    "full_name",
    "home",
    "is_build",
    "is_known",
    "is_model_folder",
    "is_reference",
    "list_models",
    "pull",
    "removal",
    "remove_unfinished",
    "resolve",
    "settings",
    "store_files",
]

# Looked up on first use: --help wants the default model's name and nothing else.
_HOMES = {
    "catalogue": ("DEFAULT_MODEL",),
    "fetch": ("pull",),
    "inventory": ("disk_usage", "list_models"),
    "layout": ("Manifest", "ModelRow", "home", "settings"),
    "lookup": ("find", "full_name", "is_build", "is_known", "is_model_folder", "is_reference", "resolve"),
    "manage": ("copy", "removal", "remove_unfinished", "store_files"),
}


def __getattr__(name: str) -> Any:
    for module, exported in _HOMES.items():
        if name in exported:
            return getattr(import_module(f"befit.store.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
