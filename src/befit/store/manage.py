"""Copying and removing models."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from befit import disk
from befit.errors import ConfigError, DoesNotFit, ModelNotFound
from befit.store import catalogue, choice, hub_cache, inventory, layout, lookup, names, repository
from befit.store.layout import Manifest
from befit.store.lock import alone

_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
_NO_LINK = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.EACCES)
_PART = re.compile(r"(.+)-\d{5}-of-(\d{5})\.gguf", re.IGNORECASE)


def copy(source: str, name: str, settings: Mapping[str, Any] | None = None, *, replace: bool = False) -> Path:
    """Store a model that is on this machine under another name, and return its new path.

    Files of befit's store, the hub's cache and Ollama's, which nobody writes to, are shared by a hard link where the
    disk can do that; others are copied. settings: what the copy is created with, by default the same as the source.
    replace: a model that has the name makes room. Raises ModelNotFound, ConfigError for a name that is taken or cannot
    be one, and DoesNotFit.
    """
    target = names.require(name)
    if target.tag is None:
        raise ConfigError(f"{name!r} has no tag; give the copy a full name, as in {name}:mine.")
    path = lookup.find(source)
    if path is None:
        raise ModelNotFound(f"{source} is not on this machine; fetch it with: befit pull {source}")
    files = {file.name: file for file in _files_of(path)}
    return store_files(
        str(target),
        files,
        main="" if path.is_dir() else path.name if len(files) > 1 else next(iter(files)),
        sha256=_known_digest(source, path) if len(files) == 1 else "",
        source=f"copy of {source}",
        settings=layout.settings(path) if settings is None else settings,
        link=_is_kept(path),
        replace=replace,
    )


def store_files(
    name: str,
    files: Mapping[str, Path],
    *,
    main: str,
    source: str,
    sha256: str = "",
    settings: Mapping[str, Any] | None = None,
    link: bool = False,
    replace: bool = False,
) -> Path:
    """Store files, by the names that they get, as the model with this full name, and return the path to open.

    main: the file to open, empty where that is the folder. source: where it is from, for people. link: share the files
    where the disk can do that; else they are copied. The others are those of `copy`.
    """
    with disk.room(name, layout.home()), alone(layout.lock(name), lambda: None):
        if name in layout.stored_names() and not replace:
            raise ConfigError(f"{name} is stored already; remove it first with: befit rm {name}")
        work = layout.partial() / f"{layout.slug(name)}.{os.getpid()}.d"
        ready = work / "model"
        ready.mkdir(parents=True)
        try:
            for file, origin in files.items():
                _put(origin, ready / file, link=link)
            sizes = {file: (ready / file).stat().st_size for file in files}
            manifest = Manifest(
                name=name,
                file=main,
                size=sum(sizes.values()),
                sha256=sha256,
                source=source,
                pulled_at=datetime.now(UTC).isoformat(timespec="seconds"),
                parts=sizes if len(sizes) > 1 or not main else {},
                settings=settings or {},
            )
            layout.write_manifest(ready, manifest)
            layout.install(ready, layout.folder(name))
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return layout.folder(name) / main


def _files_of(path: Path) -> list[Path]:
    if path.is_dir():
        if lookup.is_build(str(path)):
            return sorted(each for each in path.iterdir() if each.is_file())
        return [path / file for file in choice.tensors(sorted(each.name for each in path.iterdir()))]
    part = _PART.fullmatch(path.name)
    if part is None:
        return [path]
    pattern = re.compile(rf"{re.escape(part[1])}-\d{{5}}-of-{part[2]}\.gguf", re.IGNORECASE)
    found = sorted(each for each in path.parent.iterdir() if pattern.fullmatch(each.name))
    if len(found) != int(part[2]):
        raise ModelNotFound(
            f"{path} is one of {int(part[2])} parts, of which {len(found)} are there; fetch the others."
        )
    return found


def _is_kept(path: Path) -> bool:
    """Whether a file is in a store, where files are replaced and never written to."""
    from befit.store import ollama

    real = path.resolve()
    places = (layout.home() / "models", hub_cache.folder(), ollama.folder())
    return any(real.is_relative_to(place.resolve()) for place in places)


def _put(origin: Path, target: Path, *, link: bool) -> None:
    real = origin.resolve()
    if link:
        try:
            os.link(real, target)
            return
        except OSError as error:
            if error.errno not in _NO_LINK:
                raise
    size, free = real.stat().st_size, shutil.disk_usage(target.parent).free
    if free < size:
        raise DoesNotFit(
            f"copying {origin} takes {size / 1e6:,.0f} MB of disk and {layout.home()} has {free / 1e6:,.0f} MB free "
            f"({size:,} and {free:,} bytes). Make room (befit du shows what models take), or set BEFIT_HOME to "
            "a folder on another disk."
        )
    with disk.room(f"The copy of {origin}", layout.home(), size):
        shutil.copyfile(real, target)
        with open(target, "rb+") as out:
            os.fsync(out.fileno())


def _known_digest(source: str, path: Path) -> str:
    """The SHA-256 as far as somebody has written it down; empty otherwise."""
    found = _SHA256.search(path.resolve().name)
    if found and _is_kept(path):
        return found[0]
    if not lookup.is_reference(source) and not names.looks_like_path(source):
        stored = layout.stored(lookup.full_name(source))
        return stored[0].sha256 if stored else ""
    return ""


@dataclass(frozen=True, slots=True)
class Removal:
    """What removing a model will delete. `shared`: it is in the hub's cache, where other tools find it too."""

    name: str
    paths: tuple[Path, ...]
    shared: bool

    def run(self) -> int:
        """Delete it, and return the bytes of disk that this freed: a file that another model has too stays.

        A model's folder goes in one step, so that no half of it is left under its name.
        """
        if self.shared:
            freed = _freed(path for path in self.paths if path.is_file() and not path.is_symlink())
            for path in self.paths:
                path.unlink(missing_ok=True)
            _prune({path.parent for path in self.paths})
            return freed
        (place,) = self.paths
        with alone(layout.lock(self.name), lambda: None):
            freed = _freed(_below(place))
            work = layout.partial() / f"{layout.slug(self.name)}.{os.getpid()}.d"
            os.rename(place, work)
            shutil.rmtree(work)
            _prune({place.parent})
        return freed


def _prune(folders: set[Path]) -> None:
    """Remove the folders that are empty now, up to a model's or a repository's own."""
    for folder in folders:
        for each in (folder, *folder.parents):
            if each in (layout.home() / "models", hub_cache.folder()) or any(each.iterdir()):
                break
            each.rmdir()
            if each.name == "snapshots":  # what the branches meant is nothing any more
                shutil.rmtree(each.parent / "refs", ignore_errors=True)


def removal(ref: str) -> Removal:
    """What `befit rm REF` would delete. Raises ModelNotFound, and ConfigError for what is not befit's to delete."""
    if ref.startswith("ollama:"):
        raise ConfigError(f"{ref} belongs to Ollama; remove it with: ollama rm {ref.removeprefix('ollama:')}")
    if ref.startswith("hf:"):
        cached = hub_cache.find(repository.require(ref))
        if cached is None:
            raise ModelNotFound(f"{ref} is not in the hub's cache, {hub_cache.folder()}.")
        return _from_cache(ref, cached)
    if ref.startswith("pypi:"):
        from befit.store import pypi

        ref = pypi.stored_name(ref)
    elif names.looks_like_path(ref):
        raise ConfigError(f"{ref} is a file of yours; befit removes models by their names only.")
    name = lookup.full_name(ref)
    known = catalogue.find(name)
    for each in (name, known.name if known else name):
        if each in layout.stored_names():
            place = layout.folder(each)
            return Removal(each, (place,), shared=False)
    cached = hub_cache.find(known.repository) if known else None
    if cached is None:
        stored = ", ".join(row.name for row in inventory.list_models()) or "none"
        raise ModelNotFound(f"{name} is not stored here. Stored are: {stored}.")
    return _from_cache(name, cached)


def _from_cache(name: str, cached: hub_cache.Cached) -> Removal:
    """The links of a model in the hub's cache, and those blobs that no other snapshot links to."""
    links = set(cached.paths)
    others = [
        path.resolve()
        for path in hub_cache.place(cached.repository).glob("snapshots/**/*")
        if path.is_file() and path not in links
    ]
    blobs = {path.resolve() for path in links if path.is_symlink()} - set(others)
    return Removal(name, (*sorted(links), *sorted(blobs)), shared=True)


def unfinished() -> list[Path]:
    """What interrupted downloads have left, of which nobody holds the lock now."""
    own = [path for path in layout.partial().glob("*.d") if path.is_dir()] if layout.partial().is_dir() else []
    return [*own, *inventory.unfinished_hub()]


def remove_unfinished() -> int:
    """Delete what interrupted downloads have left, and return the bytes that this freed.

    Those that run hold their locks and are left alone.
    """
    freed = 0
    for path in unfinished():
        if path.is_dir():
            lock = layout.partial() / f"{path.name.rsplit('.', 2)[0]}.lock"
        else:
            lock = hub_cache.folder() / ".locks" / path.parent.parent.name / f"{path.name.partition('.')[0]}.lock"
        try:
            with alone(lock, _busy):
                freed += _freed(_below(path) if path.is_dir() else [path])
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        except _Busy:
            continue
    return freed


class _Busy(Exception):
    """Somebody holds the lock."""


def _busy() -> None:
    raise _Busy


def _below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def _freed(paths: Iterable[Path]) -> int:
    """Bytes of disk that deleting these files frees: not those of files that have other names too."""
    facts = [path.stat() for path in paths]
    return sum(each.st_blocks * 512 for each in facts if each.st_nlink == 1)
