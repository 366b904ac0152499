"""From what a user wrote to what a plan needs to know of a model; only headers are read, wherever they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from befit import store
from befit.errors import CorruptFile, ModelNotFound, UnsupportedModel
from befit.plan import hub
from befit.plan.architecture import Architecture
from befit.plan.config_json import from_config, from_gguf
from befit.plan.memory import Model, Shapes, by_class, parameters, shares
from befit.plan.opened import of_weights
from befit.store import catalogue, choice
from befit.store.hub import list_files
from befit.store.repository import Repository, parse
from befit.weights.hf_config import ARCHITECTURES
from befit.weights.safetensors_header import TensorEntry

_SMALL = ("config.json", "index.json")
"""How the files beside the weights end that say how those are to be read."""
_DTYPE_BITS = {"float32": 32, "float16": 16, "bfloat16": 16, "float8_e4m3fn": 8, "int8": 8}
_DENSE = {"float32": "f32", "f32": "f32", "float16": "f16", "f16": "f16", "bfloat16": "bf16", "bf16": "bf16"}


def find(ref: str) -> Model:
    """The model that `ref` means: a GGUF file, a folder, a stored or known name, or a repository on the hub.

    Raises ModelNotFound, CorruptFile, UnsupportedModel, DownloadError.
    """
    path = Path(ref).expanduser()
    if path.is_file() or store.is_build(ref):
        return _build(path) if path.is_dir() else _gguf(path, path.stem, str(path))
    if path.is_dir():
        return _folder(path)
    repository = parse(ref) if not store.is_reference(ref) or ref.startswith("hf:") else None
    stored = store.find(f"hf:{ref.removeprefix('hf:')}" if repository else ref)
    named = None if repository else catalogue.find(ref)
    if stored is not None:
        family = named.model.name.partition(":")[0] if named else None
        return replace(_local(stored, ref), catalogue_family=family)
    if repository is not None:
        return of_repository(repository)
    if named is None:
        raise ModelNotFound(f"{ref} is not stored here; fetch it with: befit pull {ref}")
    return _named(ref, named)


def _local(path: Path, name: str) -> Model:
    if not path.is_dir():
        return _gguf(path, name, str(path))
    return _build(path) if store.is_build(str(path)) else replace(_folder(path), name=name)


def _named(ref: str, named: catalogue.Named) -> Model:
    """A model of the catalogue: as published, or of the size that the quantisation in its name makes."""
    published = from_known(named.model.name)
    size = named.model.sizes.get(named.quantisation)
    if not ref.lower().endswith(f"-{named.quantisation}") or size is None:
        return published
    quantised = published.requantised(8 * size / published.parameters, named.quantisation.upper())
    return replace(quantised, name=ref)


@cache
def from_known(name: str) -> Model:
    """A model of the catalogue, at 16 bits a weight as published, without a file or a network."""
    config, family = catalogue.models()[name].config, name.partition(":")[0]
    return replace(_from_config(name, "published sizes", config, {}, family), stored="16-bit")


# -- GGUF -------------------------------------------------------------------------------------------------------------


def _gguf(path: Path, name: str, origin: str, *, head_only: bool = False) -> Model:
    from befit import models
    from befit.weights.gguf import GGUFFile

    with GGUFFile.open(path) as file:
        shapes = file.shapes
        sizes = {info.name: info.nbytes for info in file.infos.values()}
        unknown = next((info for info in file.infos.values() if not info.nbytes), None)
        if unknown is not None:
            what = f"tensor {unknown.name} has type {unknown.type.name}, whose size befit does not know"
            raise UnsupportedModel(f"{origin}: {what}; use another file of this model.")
        kinds: dict[str, int] = {}
        for info in file.infos.values():
            kinds[info.type.name] = kinds.get(info.type.name, 0) + info.nbytes
        why_not = None
        used = experts = 0
        layout: Shapes = shapes
        try:
            program = models.describe(
                file.metadata,
                shapes,
                lambda key: np.ones(shapes[key]) if head_only else file.tensors[key].dequantize(),
            )
            file.check(program.weight_names())
        except UnsupportedModel as error:
            why_not = error.message
            architecture = from_gguf(file.metadata, shapes)
            program, layout = architecture.describe()
            used, experts = architecture.used_experts, architecture.experts
        return Model(
            name=name,
            origin=origin,
            family=program.family,
            catalogue_family=None,
            program=program,
            shapes=layout,
            counts=parameters(shapes),
            weights=by_class(sizes),
            stored=shares(kinds),
            formats={info.name: info.type.name.lower() for info in file.infos.values()},
            used=used / experts if experts else 1.0,
            used_experts=used,
            why_not=why_not,
        )


def _build(path: Path) -> Model:
    from befit.prepared.read import open_build

    build = open_build(path)
    build.close()
    return of_weights(build.manifest.name, str(path), build.program, build.weights)


# -- config.json and safetensors --------------------------------------------------------------------------------------


def _folder(path: Path) -> Model:
    from befit.weights.hf_files import CONFIG, is_hf_folder, read_json, weight_files
    from befit.weights.safetensors import read_safetensors

    config_file = path / CONFIG
    if not config_file.is_file():
        found = sorted(each.name for each in path.glob("*.gguf"))
        hint = f"name one of its files: {', '.join(found[:5])}" if found else "name a folder that has them"
        raise ModelNotFound(f"{path}: the folder has no config.json and befit did not build it; {hint}.")
    name = path.resolve().name
    if not is_hf_folder(path):
        return _from_config(name, str(path), read_json(config_file), {}, None)
    try:
        return _loadable(path, name)
    except UnsupportedModel as error:
        entries: dict[str, TensorEntry] = {}
        for file in weight_files(path):
            entries |= read_safetensors(path / file).entries
        return replace(_from_config(name, str(path), read_json(config_file), entries, None), why_not=error.message)


def _loadable(path: Path, name: str) -> Model:
    """A folder as it would be loaded. Raises UnsupportedModel for one that would not."""
    from befit import models
    from befit.weights.hf_folder import HFFolder

    with HFFolder.open(path, tokenizer=False) as folder:
        kinds: dict[str, int] = {}
        for kind, nbytes in folder.types:
            kinds[kind] = kinds.get(kind, 0) + nbytes
        program = models.describe(folder.metadata, folder.shapes, lambda key: folder.tensors[key].dequantize())
        return Model(
            name=name,
            origin=str(path),
            family=program.family,
            catalogue_family=None,
            program=program,
            shapes=folder.shapes,
            counts=parameters(folder.shapes),
            weights=by_class({key: stored.nbytes for key, stored in folder.stored.items()}),
            stored=shares(kinds),
            formats={key: stored.form for key, stored in folder.stored.items()},
        )


def of_repository(repository: Repository) -> Model:
    """The model that a pull would fetch, off the headers of its files."""
    known_as = (
        model.name for model in catalogue.models().values() if repository.name in (model.gguf, model.repository)
    )
    name = next(known_as, None)
    found = _remote(repository)
    return replace(found, catalogue_family=name.partition(":")[0] if name else None)


def _remote(repository: Repository) -> Model:
    where = f"{repository.endpoint}/{repository.name}"
    files = list(list_files(repository).files)
    if choice.CONFIG in files and not any(file.lower().endswith((".gguf", ".safetensors")) for file in files):
        return _from_config(repository.name, where, hub.read_json(repository, choice.CONFIG), {}, None)
    chosen = choice.choose(files, repository.file, repository.name)
    if chosen[0].lower().endswith(".gguf"):
        return _remote_gguf(repository, chosen, where)
    if choice.INDEX in chosen:
        chosen = choice.indexed(chosen, hub.read_json(repository, choice.INDEX), repository.name)
    with hub.temporary_folder() as folder:
        wanted = [file for file in chosen if file.endswith((".safetensors", *_SMALL))]
        hub.fetch_folder_head(repository, wanted, Path(folder))
        return replace(_folder(Path(folder)), name=repository.name, origin=where)


def _remote_gguf(repository: Repository, files: Sequence[str], where: str) -> Model:
    with hub.temporary_folder() as folder:
        paths = [hub.fetch_gguf_head(repository, file, Path(folder)) for file in files]
        return _gguf(paths[0], Path(files[0]).stem, f"{where}/{files[0]}", head_only=True)


def _from_config(
    name: str, origin: str, config: Any, entries: Mapping[str, TensorEntry], catalogue_family: str | None
) -> Model:
    if not isinstance(config, Mapping):
        raise CorruptFile(f"{origin}: config.json is no JSON object; fetch it again.")
    architecture: Architecture = from_config(config)
    if entries:
        sizes = by_class({key: entry.nbytes for key, entry in entries.items()})
        architecture = replace(architecture, tied="head" not in sizes)
        kinds: dict[str, int] = {}
        for entry in entries.values():
            kinds[entry.dtype] = kinds.get(entry.dtype, 0) + entry.nbytes
        stored = shares(kinds)
    program, shapes = architecture.describe()
    if not entries:
        sizes, stored = _published(config, shapes)
    dense = _DENSE.get(stored.split()[0].lower()) if len(stored.split()) <= 2 else None
    runs = architecture.family in ARCHITECTURES
    return Model(
        name=name,
        origin=origin,
        family=architecture.family,
        catalogue_family=catalogue_family,
        program=program,
        shapes=shapes,
        counts=parameters(shapes),
        weights=sizes,
        stored=stored,
        formats=dict.fromkeys(shapes, dense) if dense else {},
        used=architecture.used_experts / architecture.experts if architecture.experts else 1.0,
        used_experts=architecture.used_experts,
        why_not="befit loads GGUF files and folders: fetch this model as one"
        if runs and not architecture.experts
        else f"befit does not run {architecture.family} models yet",
    )


def _published(config: Mapping[str, Any], shapes: Shapes) -> tuple[dict[str, int], str]:
    """Weight bytes by class at the width that the configuration states; 16 bits unless it does."""
    dtype = str(config.get("dtype") or config.get("torch_dtype") or "float16").removeprefix("torch.")
    bits = _DTYPE_BITS.get(dtype, 16)
    return {kind: count * bits // 8 for kind, count in parameters(shapes).items()}, dtype
