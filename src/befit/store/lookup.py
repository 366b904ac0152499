"""From what a user wrote to a file on this machine."""

from __future__ import annotations

import os
from pathlib import Path

from befit.errors import ConfigError, CorruptFile, ModelNotFound
from befit.store import catalogue, fetch, layout, names


def resolve(ref: str, *, pull: bool = True, progress: bool = True) -> Path:
    """The GGUF file or folder that `ref` means: a path, a stored model's name, or a catalogue name.

    A catalogue name that is not stored yet is fetched when `pull` allows it. A family alone will do where it has one
    tag. Raises `ModelNotFound`, `DownloadError`, or `CorruptFile` for a stored file that cannot be fetched anew.
    """
    path = os.path.expanduser(ref)
    if os.path.isfile(path) or is_model_folder(ref):
        return Path(path)
    if names.looks_like_path(ref):
        what = f"there is no file {ref}"
        if os.path.isdir(path):
            what = f"{ref} is a folder without a config.json and befit did not build it; name the .gguf file in it"
        raise ModelNotFound(f"{what}.")
    name = _full_name(ref)
    fetchable = pull and catalogue.find(name) is not None
    try:
        found = layout.stored(name)
    except CorruptFile:
        if not fetchable:
            raise
        found = None
    if found is not None:
        return found[1]
    if fetchable:
        return fetch.pull(name, progress=progress)
    if catalogue.find(name) is not None:
        raise ModelNotFound(f"{name} is not stored under {layout.home()}; fetch it with: befit pull {name}")
    raise catalogue.not_found(ref, layout.stored_names())


def is_known(ref: str) -> bool:
    """Whether `ref` is the name of a stored or fetchable model, perhaps without its tag."""
    wanted = names.parse(ref)
    return wanted is not None and bool(_candidates(wanted))


def is_build(ref: str) -> bool:
    """Whether `ref` is the path of a folder that `befit build` wrote."""
    return os.path.isfile(os.path.join(os.path.expanduser(ref), layout.BUILD_MANIFEST))


def is_model_folder(ref: str) -> bool:
    """Whether `ref` is the path of a folder that is a model: one that befit built, or one with a config.json."""
    return is_build(ref) or os.path.isfile(os.path.join(os.path.expanduser(ref), "config.json"))


def _full_name(ref: str) -> str:
    wanted = names.require(ref)
    found = _candidates(wanted)
    if len(found) > 1:
        raise ConfigError(f"{ref!r} may mean {' or '.join(found)}; write one of them in full.")
    return found[0] if found else str(wanted)


def _candidates(wanted: names.ModelName) -> list[str]:
    known = {*layout.stored_names(), *catalogue.CATALOGUE}
    return sorted(name for name in known if wanted.matches(names.require(name)))
