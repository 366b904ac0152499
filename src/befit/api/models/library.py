"""What clients may do with the models that are stored on the server's machine: fetch, copy, remove and make them.

All of it blocks, and is called on other threads than the event loop's. Models go by names and references, never by
paths: a request does not open, copy or remove files of its choice.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from befit import disk, store
from befit.errors import ConfigError, InvalidRequest, ModelNotFound

if TYPE_CHECKING:
    from befit.config import EngineOptions
    from befit.quantize.recipe import Target
    from befit.store.hub_fetch import Watch

DIGEST = re.compile(r"sha256[:-]([0-9a-f]{64})", re.ASCII)
_HUBS = ("hf.co/", "huggingface.co/")
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,254}", re.ASCII)
_QUANTISED: Mapping[str, tuple[Target, str]] = {
    "q8_0": ("w8", "auto"),
    "q4_0": ("w4", "q4_0"),
    "q4_1": ("w4", "q4_1"),
    "q4_k_m": ("w4", "auto"),
    "q4_k_s": ("w4", "auto"),
}
"""Ollama's names: bits of a weight, and the format of 4-bit matrices."""


def reference(asked: str) -> str:
    """What the store calls the model that a client asks for. Raises ModelNotFound for what is no name."""
    for hub in _HUBS:
        if asked.lower().startswith(hub):
            return f"hf:{asked[len(hub) :]}"
    if store.is_reference(asked):
        return asked
    from befit.store import names

    if names.looks_like_path(asked) or names.parse(asked) is None:
        raise ModelNotFound(
            f"{asked[:200]!r} is no model's name. Names are FAMILY:TAG, hf:OWNER/REPOSITORY[:FILE], ollama:NAME or "
            "pypi:PACKAGE; files are named where the server runs."
        )
    return asked


def stored_name(asked: str) -> str:
    """The full name to store a model under; one without a tag is `latest`, as with Ollama. Raises InvalidRequest."""
    from befit.store import names

    wanted = names.parse(asked)
    if wanted is None or names.looks_like_path(asked):
        raise InvalidRequest(
            f"{asked[:200]!r} cannot be a model's name: use FAMILY:TAG in letters, digits, '.', '_' and '-'.", "model"
        )
    return str(wanted) if wanted.tag is not None else f"{wanted}:latest"


@dataclass(frozen=True, slots=True)
class Recipe:
    """A model to be made. source: the one that it is made from, by its name or, if the
    server itself says so, its path; or files: digests of uploads by the names they get.

    settings: see `store.layout.Manifest`. quantise: a format of Ollama's names, or empty.
    """

    name: str
    source: str | Path = ""
    files: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    quantise: str = ""


@dataclass(frozen=True, slots=True)
class Library:
    """The store, for clients. options: by which it is judged whether a model is worth a download."""

    options: EngineOptions

    def find(self, asked: str, *, fetchable: bool = False) -> tuple[str, Path | None]:
        """Full name and path of a stored model; None where it is not here. Raises ModelNotFound."""
        ref = reference(asked)
        plain = ref if store.is_reference(ref) else ref.removesuffix(":latest")
        try:
            for each in dict.fromkeys((ref, plain)):  # a copy may be called so; else it only means the usual one
                try:
                    found = store.find(each, fetchable=fetchable, paths=False)
                except ModelNotFound:
                    if each == plain:
                        raise
                    continue
                if found is not None or each == plain:
                    return store.full_name(each), found
        except ConfigError as error:  # a family with several sizes
            raise ModelNotFound(error.message) from error
        raise AssertionError("the plain name was asked for last")

    def pull(self, asked: str, watch: Watch | None = None) -> Path:
        """Make sure that a model is here and whole. Raises what `store.pull` raises."""
        from befit.plan.admit import check

        ref = reference(asked)
        if not store.is_reference(ref):
            ref = ref.removesuffix(":latest")
        return store.pull(ref, progress=False, admit=lambda wanted: check(wanted, self.options), watch=watch)

    def _here(self, source: str | Path) -> tuple[str, Path]:
        """Name and path of a model that is here: by its name, or by a path that is the server's own."""
        if isinstance(source, Path):
            return str(source), source
        name, path = self.find(source)
        if path is None:
            raise ModelNotFound(f"{name} is not stored on the server's machine; pull it first.")
        return name, path

    def copy(self, source: str | Path, target: str) -> Path:
        """Store a model under a further name, or in place of what has it. Raises ModelNotFound, DoesNotFit."""
        return store.copy(self._here(source)[0], stored_name(target), replace=True)

    def remove(self, asked: str) -> int:
        """Delete a model, and return the bytes that this freed. Raises ModelNotFound, InvalidRequest for Ollama's."""
        name, _ = self._here(asked)
        try:
            return store.removal(name).run()
        except ConfigError as error:
            raise InvalidRequest(error.message, "model") from error

    # -- uploads ------------------------------------------------------------------------------------------------------

    def blob(self, digest: str) -> Path:
        """Where the upload with a digest is, or will be. Raises InvalidRequest for what is no SHA-256."""
        found = DIGEST.fullmatch(digest)
        if found is None:
            raise InvalidRequest(f"{digest[:100]!r} is no digest; write sha256: and 64 hexadecimal digits.", "digest")
        from befit.store import layout

        return layout.partial() / "blobs.d" / f"sha256-{found[1]}"

    def make(self, recipe: Recipe, say: Callable[[str], None]) -> Path:
        """Make and store a model. `say` gets what is being done. Raises ModelNotFound, InvalidRequest, and what reading
        and quantising a model raise; DoesNotFit for lack of disk."""
        from befit.store import layout

        with disk.room(recipe.name, layout.home()):
            return self._make(recipe, say)

    def _make(self, recipe: Recipe, say: Callable[[str], None]) -> Path:
        from befit.store import layout

        say("reading model metadata")
        if recipe.source:
            name, path = self._here(recipe.source)
            settings = _merged(layout.settings(path), recipe.settings)
            if not recipe.quantise:
                say("writing manifest")
                return store.copy(name, recipe.name, settings, replace=True)
            return self._quantised(recipe, path, settings, say)
        files = {name: self._uploaded(name, digest) for name, digest in recipe.files.items()}
        layout.partial().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=layout.partial(), suffix=".d") as work:
            for name, blob in files.items():
                os.link(blob, Path(work, name))
            main = _main(list(files))
            path = Path(work, main)
            _check(path)
            if recipe.quantise:
                made = self._quantised(recipe, path, recipe.settings, say)
            else:
                say("writing manifest")
                digest = DIGEST.fullmatch(recipe.files[main]) if main else None
                made = store.store_files(
                    recipe.name,
                    {name: Path(work, name) for name in files},
                    main=main,
                    source="upload",
                    sha256=digest[1] if digest is not None and len(files) == 1 else "",
                    settings=recipe.settings,
                    link=True,
                    replace=True,
                )
        for blob in files.values():
            blob.unlink(missing_ok=True)
        return made

    def _uploaded(self, name: str, digest: str) -> Path:
        if not _FILE.fullmatch(name):
            raise InvalidRequest(f"files has the name {name[:100]!r}; use plain names, without folders.", "files")
        blob = self.blob(digest)
        if not blob.is_file():
            raise InvalidRequest(
                f"files.{name}: {digest} has not been uploaded; POST it to /api/blobs/{digest}.", "files"
            )
        return blob

    def _quantised(self, recipe: Recipe, path: Path, settings: Mapping[str, Any], say: Callable[[str], None]) -> Path:
        from befit.plan.hardware import physical_cores
        from befit.quantize.convert import convert
        from befit.store import layout

        if store.is_build(str(path)):
            raise InvalidRequest(f"{recipe.source} is a built folder; name the model that it was built from.", "from")
        to, blocks = _QUANTISED[recipe.quantise.lower()]
        work = Path(tempfile.mkdtemp(dir=layout.partial(), suffix=".d"))
        try:
            target = work / f"{layout.slug(recipe.name)}-{recipe.quantise.lower()}.gguf"
            say(f"quantizing to {recipe.quantise}")
            threads = self.options.threads or physical_cores()
            convert(path, target, to=to, name=recipe.name, blocks=blocks, threads=threads, measured=False)
            say("writing manifest")
            return store.store_files(
                recipe.name,
                {target.name: target},
                main=target.name,
                source=f"{recipe.source or 'upload'}, quantised to {recipe.quantise}",
                settings=settings,
                link=True,
                replace=True,
            )
        finally:
            shutil.rmtree(work, ignore_errors=True)


class Upload:
    """An upload as it comes: it gets its name when its digest is right."""

    def __init__(self, target: Path) -> None:
        self.target = target
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, self._path = tempfile.mkstemp(dir=target.parent, suffix=".incomplete")
        self._file = open(descriptor, "wb", buffering=0)  # noqa: SIM115 - open over many calls
        self._digest = hashlib.sha256()

    def write(self, data: bytes) -> None:
        """Append bytes. Raises OSError, as where the disk is full."""
        self._digest.update(data)
        disk.write_all(self._file.fileno(), data)

    def finish(self) -> None:
        """All has come. Raises InvalidRequest if it is not what its digest says."""
        self._file.close()
        found = self._digest.hexdigest()
        if not self.target.name.endswith(found):
            raise InvalidRequest(f"The body's digest is sha256:{found}, not that of the path; send it again.", "digest")
        os.replace(self._path, self.target)

    def close(self) -> None:
        """Forget what has come, unless it was finished."""
        self._file.close()
        Path(self._path).unlink(missing_ok=True)


def check_quantisation(name: str) -> None:
    """Raise InvalidRequest for a format that models are not made in."""
    if name.lower() not in _QUANTISED:
        raise InvalidRequest(f"quantize is {name[:40]!r}; use {', '.join(_QUANTISED)}.", "quantize")


def _merged(base: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    parameters = {**base.get("parameters", {}), **more.get("parameters", {})}
    return {**base, **more, **({"parameters": parameters} if parameters else {})}


def _main(files: list[str]) -> str:
    """The file to open: the only GGUF file, or the folder of a config.json. Raises InvalidRequest."""
    weights = [name for name in files if name.lower().endswith(".gguf")]
    if len(weights) == 1 and len(files) == 1:
        return weights[0]
    if not weights and "config.json" in files:
        return ""
    raise InvalidRequest(
        f"files has {', '.join(files)[:200]}; give one .gguf file, or the config.json, tokenizer.json and .safetensors "
        "files of a model.",
        "files",
    )


def _check(path: Path) -> None:
    """Raise unless befit can run the model."""
    from befit import models
    from befit.weights.checkpoint import open_checkpoint

    with open_checkpoint(path) as file:
        program = models.describe(file.metadata, file.shapes, lambda key: file.tensors[key].dequantize())
        file.check(program.weight_names())
