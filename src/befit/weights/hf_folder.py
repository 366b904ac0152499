"""Hugging Face folders: `config.json`, a tokeniser and safetensors, as metadata and canonical tensors over memory maps.

What a folder says is translated to what a GGUF file would say, so that everything after it knows one kind of model:
`hf_config` and `hf_tokenizer` make the metadata, `hf_names` the names. No code of a model is ever run.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np

from befit.errors import CorruptFile, ModelNotFound, UnsupportedModel
from befit.weights import hf_config
from befit.weights.hf_files import CONFIG, chat_templates, read_json, weight_files
from befit.weights.hf_names import canonical_module, is_no_weight
from befit.weights.hf_tokenizer import tokenizer_metadata
from befit.weights.packed import Made, Raw, Reader
from befit.weights.quantized import OTHER_FILES, reader_of
from befit.weights.safetensors import SafetensorsFile, read_safetensors
from befit.weights.tensor import DenseTensor, MadeTensor, Tensor

SMALL = (CONFIG, "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
_DENSE: Mapping[str, tuple[Literal["f32", "f16", "bf16"], Any]] = {
    "F32": ("f32", np.float32),
    "F16": ("f16", np.float16),
    "BF16": ("bf16", np.uint16),
}
_OF_CACHE = frozenset({"k_scale", "v_scale", "q_scale", "kv_scale", "prob_output_scale"})


@dataclass(frozen=True, slots=True)
class Stored:
    """A canonical tensor of a checkpoint, not read yet.

    type: what the file calls its type or format. form: the canonical dtype or block format. nbytes: bytes that it takes
    as a canonical tensor. parts: the file's tensors that it is made of.
    """

    shape: tuple[int, ...]
    type: str
    form: str
    nbytes: int
    parts: tuple[str, ...]
    make: Callable[[], Tensor]


class HFFolder:
    """An open Hugging Face folder, with the attributes and methods of `GGUFFile`.

    path: the folder. paths: config.json first, then everything else that the model is made of. size: bytes of the
    tensors' files. notes: what was not taken over exactly, for people.
    """

    def __init__(self, path: Path, config: Mapping[str, Any], files: list[SafetensorsFile]) -> None:
        """Join what was read; `HFFolder.open` does both."""
        self.path = path
        self.config = config
        self.files = files
        self.size = sum(len(file.map) for file in files)
        self.paths = [each for name in SMALL if (each := path / name).is_file()] + [file.path for file in files]
        self.notes: list[str] = []
        self.metadata: Mapping[str, Any] = hf_config.metadata_of(config, str(path / CONFIG))
        self.architecture: str = self.metadata["general.architecture"]
        self._homes = {name: file for file in files for name in file.entries}
        self.stored: Mapping[str, Stored] = self._translate()
        self.tensors: Mapping[str, Tensor] = _Tensors(self)
        self._closed = False

    @classmethod
    def open(cls, path: str | Path, *, tokenizer: bool = True) -> HFFolder:
        """Map the files and read their headers; without `tokenizer`, what texts need is left out of the metadata.

        Raises ModelNotFound (a file is missing), CorruptFile, UnsupportedModel (an architecture, a type, code of the
        model's own) or ModelError (not readable).
        """
        path = Path(path)
        config = read_json(path / CONFIG)
        hf_config.architecture_of(config, str(path / CONFIG))  # before any large file is looked at
        folder = cls(path, config, [read_safetensors(path / name) for name in weight_files(path)])
        if tokenizer:
            folder.metadata = {**folder.metadata, **folder._texts()}
        return folder

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every tensor, rows first."""
        return {name: stored.shape for name, stored in self.stored.items()}

    @property
    def types(self) -> list[tuple[str, int]]:
        """Type and bytes of every tensor."""
        return [(stored.type, stored.nbytes) for stored in self.stored.values()]

    def check(self, names: Iterable[str] | None = None) -> None:
        """Raise UnsupportedModel unless each of these tensors (default: all) is there."""
        for name in self.stored if names is None else names:
            if name not in self.stored:
                raise UnsupportedModel(f"{self.path}: tensor {name!r:.100}, which the model needs, is not there.")

    def release(self, tensor: Tensor) -> None:
        """Tell the system that the memory behind a tensor of this folder is not needed any more; it stays valid."""
        for part in self.stored[tensor.name].parts:
            self._homes[part].release(part)

    def close(self) -> None:
        """Let go of the files. Tensors made before stay valid."""
        for file in self.files:
            file.map.madvise(mmap.MADV_DONTNEED)
        self._closed = True

    def __enter__(self) -> HFFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<HFFolder {self.path}: {len(self.stored)} tensors, {self.size} bytes>"

    # -- tensors

    def _translate(self) -> dict[str, Stored]:
        """Every tensor under its canonical name. One that no family has keeps its own, for `describe` to refuse."""
        result: dict[str, Stored] = {}
        used = self._quantised(result)
        tied = hf_config.is_tied(hf_config.text_config(self.config), self.architecture)
        for name in self._homes:
            if name in used or is_no_weight(name):
                continue
            module, _, kind = name.rpartition(".")
            found = canonical_module(self.architecture, module)
            if found == "output" and tied:  # a second copy of the embedding
                continue
            canonical = f"{found}.{kind}" if found and kind in ("weight", "bias") else name
            if canonical in result:
                raise CorruptFile(f"{self.path}: two tensors are the model's {canonical}, one of them {name!r:.100}.")
            result[canonical] = self._dense(canonical, name)
        if not tied and "output.weight" not in result:
            raise CorruptFile(
                f"{self.path}: the head, lm_head.weight, is missing and config.json does not tie it to the embedding; "
                "fetch all files of the model again."
            )
        return result

    def _quantised(self, result: dict[str, Stored]) -> set[str]:
        """Put the modules that are quantised into `result`; the file's tensors that they are made of."""
        found = self._reader()
        if found is None:
            return set()
        method, read = found
        modules: dict[str, dict[str, Raw]] = {}
        for name, file in self._homes.items():
            if is_no_weight(name):
                continue
            module, dot, rest = name.partition(".weight.")
            module, kind = (module, f"weight.{rest}") if dot else name.rpartition(".")[::2]
            entry = file.entries[name]
            modules.setdefault(module, {})[kind] = Raw(name, entry.dtype, entry.shape, partial(file.raw, name))
        used: set[str] = set()
        notes: dict[str, int] = {}
        for module, parts in modules.items():
            idle = {raw.name for kind, raw in parts.items() if kind in _OF_CACHE}
            if idle:
                notes["the scales of a quantised KV cache are not used"] = 0
                used |= idle
            try:
                made = read(module, parts)
            except (CorruptFile, UnsupportedModel) as error:
                raise type(error)(f"{self.path}: {error.message}") from None
            if made is None:
                continue
            canonical = f"{canonical_module(self.architecture, module) or module}.weight"
            used |= {parts[kind].name for kind in made.uses}
            names = tuple(parts[kind].name for kind in made.uses)
            result[canonical] = self._made(canonical, made, names)
            if made.note:
                notes[made.note] = notes.get(made.note, 0) + 1
        self.notes += [f"{note} ({count} matrices)" if count else note for note, count in notes.items()]
        if not used:
            raise CorruptFile(f"{self.path}: config.json says {method}, and no tensor is quantised so; fetch it again.")
        return used

    def _made(self, canonical: str, made: Made, names: tuple[str, ...]) -> Stored:
        tensor = MadeTensor(canonical, made.shape, made.format, made.make, made.fp8)
        return Stored(made.shape, made.type, made.format.name, tensor.nbytes, names, lambda: tensor)

    def _reader(self) -> tuple[str, Reader] | None:
        """How the weights are quantised, or None."""
        settings, where = self.config.get("quantization_config"), str(self.path / CONFIG)
        if settings is None:
            settings = hf_config.text_config(self.config).get("quantization_config")
        if settings is None:
            for name, method in OTHER_FILES.items():
                if (self.path / name).is_file():
                    settings, where = {"quant_method": method, **read_json(self.path / name)}, str(self.path / name)
                    break
        if settings is None:
            return None
        if not isinstance(settings, Mapping):
            raise CorruptFile(f"{where}: quantization_config is {settings!r:.80}, not an object.")
        return reader_of(settings, where)

    def _dense(self, canonical: str, name: str) -> Stored:
        file = self._homes[name]
        entry = file.entries[name]
        if entry.dtype not in _DENSE:
            raise UnsupportedModel(
                f"{file.path}: tensor {name!r:.100} has type {entry.dtype}, which befit does not read as a weight."
            )
        if not entry.shape or not prod(entry.shape):
            raise UnsupportedModel(f"{file.path}: tensor {name!r:.100} of shape {list(entry.shape)} holds nothing.")
        dtype, numpy_type = _DENSE[entry.dtype]

        def make() -> DenseTensor:
            tensor = DenseTensor(canonical, entry.shape, dtype, file.raw(name).view(numpy_type).reshape(entry.shape))
            if self.architecture == "gemma3" and canonical.endswith("norm.weight"):
                # Gemma computes with 1 + weight, canonical tensors with the weight.
                return DenseTensor(canonical, entry.shape, "f32", tensor.dequantize() + np.float32(1))
            return tensor

        return Stored(entry.shape, entry.dtype, dtype, entry.nbytes, (name,), make)

    # -- texts

    def _texts(self) -> dict[str, Any]:
        """Metadata of the tokeniser, the chat template and the sampling that the model's makers recommend."""
        path = self.path / "tokenizer.json"
        if not path.is_file():
            raise ModelNotFound(
                f"{self.path}: there is no tokenizer.json, which befit needs to read text; fetch it from the model's "
                "repository, or write it with transformers' save_pretrained of the tokeniser."
            )
        generation = self._optional("generation_config.json")
        settings = self._optional("tokenizer_config.json")
        own = hf_config.text_config(self.config)
        rows = self.stored["token_embd.weight"].shape[0] if "token_embd.weight" in self.stored else 0
        bos = own.get("bos_token_id")
        ends = generation.get("eos_token_id")
        metadata = tokenizer_metadata(
            read_json(path),
            settings,
            str(path),
            rows=rows,
            end_ids=_ids(own.get("eos_token_id") if ends is None else ends, self.path),
            bos_id=bos if type(bos) is int else None,
        )
        metadata |= hf_config.sampling_of(generation, str(self.path / "generation_config.json"))
        return {"general.name": self.path.resolve().name, **metadata, **chat_templates(self.path)}

    def _optional(self, name: str) -> Mapping[str, Any]:
        return read_json(self.path / name) if (self.path / name).is_file() else {}


class _Tensors(Mapping[str, Tensor]):
    """The tensors of a folder by canonical name, each made when it is asked for."""

    def __init__(self, folder: HFFolder) -> None:
        self._folder = folder

    def __getitem__(self, name: str) -> Tensor:
        if self._folder._closed:
            raise ValueError(f"{self._folder.path} is closed")
        return self._folder.stored[name].make()

    def __contains__(self, name: object) -> bool:
        return name in self._folder.stored

    def __iter__(self) -> Iterator[str]:
        return iter(self._folder.stored)

    def __len__(self) -> int:
        return len(self._folder.stored)


def _ids(value: Any, where: Path) -> list[int]:
    """One token id, several, or none, as configurations write them."""
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if not all(type(each) is int for each in ids):
        raise CorruptFile(f"{where}: eos_token_id is {value!r:.80}; it must be a token id or a list of them.")
    return ids
