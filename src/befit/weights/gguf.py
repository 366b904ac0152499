"""GGUF models, versions 2 and 3, in one file or split in parts: metadata and canonical tensors over a memory map."""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from befit.errors import CorruptFile, ModelNotFound, UnsupportedModel
from befit.weights.gguf_header import Metadata, quote
from befit.weights.gguf_part import Part, TensorInfo, read_part
from befit.weights.tensor import DenseTensor, QuantFormat, QuantTensor, Tensor

__all__ = ["GGUFFile", "Metadata", "TensorInfo"]

_PART_NAME = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)
_DTYPES: dict[str, np.dtype[Any]] = {
    "f32": np.dtype(np.float32),
    "f16": np.dtype(np.float16),
    "bf16": np.dtype(np.uint16),
}


class GGUFFile:
    """An open GGUF model.

    path: the file, or the first of its parts. paths: the file, or all its parts in order. size: bytes of all parts.
    metadata: see `Metadata`; a split model's is that of its first part. notes: empty, since everything is
    taken over as it is. infos, shapes: every tensor there is, readable or not. tensors: the canonical tensors, made on
    access, read-only, without copying a byte.

    A tensor of a type that befit cannot read does not stop the file from opening. It raises UnsupportedModel on access,
    and from `check`, which a loader calls before it reads the first weight.

    Opening reads the headers only, but all of them, and compares every number with what the file has. Should another
    process shorten the file afterwards, reading the missing part ends this process (SIGBUS): replace a model file by
    renaming a new one over it.
    """

    def __init__(self, parts: list[Part]) -> None:
        """Join parts that were read; `GGUFFile.open` does both."""
        self.path = parts[0].path
        self.paths = [part.path for part in parts]
        self.size = sum(len(part.map) for part in parts)
        self.metadata: Mapping[str, Any] = parts[0].metadata
        self.tensors: Mapping[str, Tensor] = _Tensors(self)
        self.notes: list[str] = []
        self._homes: dict[str, Part] = {}
        infos: dict[str, TensorInfo] = {}
        for part in parts:
            for name, info in part.infos.items():
                if name in infos:
                    raise CorruptFile(
                        f"{part.path}: tensor {quote(name)} is also in {self._homes[name].path}; "
                        "these are not parts of one model, fetch all of them again"
                    )
                infos[name] = info
                self._homes[name] = part
        self.infos: Mapping[str, TensorInfo] = infos
        self._closed = False

    @classmethod
    def open(cls, path: str | Path) -> GGUFFile:
        """Map the file and read its header; of a split model (`…-00002-of-00005.gguf`), every part's.

        Raises ModelNotFound (no such file, or a part is missing), CorruptFile (damaged, incomplete, hostile, or no GGUF
        at all), UnsupportedModel (a version or byte order that befit does not read) or ModelError (not readable).
        """
        part = read_part(Path(path))
        count = part.metadata.number("split.count", default=0)
        return cls(_read_all_parts(part, count) if count > 1 else [part])

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every tensor, rows first."""
        return {name: info.shape for name, info in self.infos.items()}

    @property
    def types(self) -> list[tuple[str, int]]:
        """Type and bytes of every tensor."""
        return [(info.type.name, info.nbytes) for info in self.infos.values()]

    def check(self, names: Iterable[str] | None = None) -> None:
        """Raise UnsupportedModel unless each of these tensors (default: all) is there and befit can read it."""
        problems = [text for name in (self.infos if names is None else names) if (text := self._problem(name))]
        if problems:
            more = f" ({len(problems) - 1} more tensors have such problems)" if len(problems) > 1 else ""
            raise UnsupportedModel(f"{self.path}: {problems[0]}{more}")

    def release(self, tensor: Tensor) -> None:
        """Tell the system that the memory behind a tensor of this file is not needed any more.

        The tensor stays valid: reading it again reads the file again.
        """
        info, part = self._find(tensor.name)
        first_page = info.start - info.start % mmap.PAGESIZE
        part.map.madvise(mmap.MADV_DONTNEED, first_page, info.start + info.nbytes - first_page)

    def close(self) -> None:
        """Let go of the file: its memory is released and `tensors` makes no new ones.

        Tensors made before, and the metadata, stay valid: they keep the file mapped for as long as they live.
        """
        for part in set(self._homes.values()):
            part.map.madvise(mmap.MADV_DONTNEED)
        self._homes.clear()
        self._closed = True

    def __enter__(self) -> GGUFFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<GGUFFile {self.path}: {len(self.infos)} tensors, {self.size} bytes>"

    def _find(self, name: str) -> tuple[TensorInfo, Part]:
        if self._closed:
            raise ValueError(f"{self.path} is closed")
        return self.infos[name], self._homes[name]

    def _problem(self, name: str) -> str | None:
        """Why befit cannot read the tensor, and what to do; None when it can."""
        info = self.infos.get(name)
        if info is None:
            return f"tensor {quote(name)}, which the model needs, is not in the file; fetch a complete model"
        if info.type.reads_as is None:
            return (
                f"tensor {quote(name)} has type {info.type.name}, which befit cannot read; "
                "use a Q4_K_M, Q5_K_M, Q6_K or Q8_0 file"
            )
        if isinstance(info.type.reads_as, QuantFormat) and len(info.shape) != 2:
            return (
                f"tensor {quote(name)} has type {info.type.name} and {len(info.shape)} dimensions {list(info.shape)}; "
                "befit reads quantised tensors of 2 dimensions only, use a dense (not mixture-of-experts) model"
            )
        return None

    def _tensor(self, name: str) -> Tensor:
        info, part = self._find(name)
        form, problem = info.type.reads_as, self._problem(name)
        if form is None or problem:
            raise UnsupportedModel(f"{self.path}: {problem}")
        data = part.bytes[info.start : info.start + info.nbytes]
        if isinstance(form, QuantFormat):
            rows, cols = info.shape
            return QuantTensor(name, (rows, cols), form, data.reshape(rows, cols // form.block * form.block_bytes))
        return DenseTensor(name, info.shape, form, data.view(_DTYPES[form]).reshape(info.shape))


class _Tensors(Mapping[str, Tensor]):
    """The tensors of a file by name, in the file's order, each made when it is asked for."""

    def __init__(self, file: GGUFFile) -> None:
        self._file = file

    def __getitem__(self, name: str) -> Tensor:
        return self._file._tensor(name)

    def __contains__(self, name: object) -> bool:
        return name in self._file.infos

    def __iter__(self) -> Iterator[str]:
        return iter(self._file.infos)

    def __len__(self) -> int:
        return len(self._file.infos)


def _read_all_parts(part: Part, count: int) -> list[Part]:
    """All `count` parts of the split model that `part` is one of, found by their names, in order."""
    name = _PART_NAME.fullmatch(part.path.name)
    if name is None or int(name["count"]) != count:
        number = part.metadata.number("split.no", default=0) + 1
        raise ModelNotFound(
            f"{part.path}: the file is part {number} of {count}, and befit finds the others by name; "
            f"call the parts model-00001-of-{count:05}.gguf and so on, in one directory"
        )
    parts: list[Part] = []
    for index in range(count):
        path = part.path.with_name(f"{name['stem']}-{index + 1:05}-of-{count:05}.gguf")
        try:
            found = part if path == part.path else read_part(path)
        except ModelNotFound:
            raise ModelNotFound(
                f"{path}: part {index + 1} of {count} is missing; fetch all {count} parts into one directory"
            ) from None
        number, total = found.metadata.number("split.no", default=0), found.metadata.number("split.count", default=0)
        if (number, total) != (index, count):
            raise CorruptFile(
                f"{path}: says it is part {number + 1} of {total} and is named part {index + 1} of {count}; "
                "fetch the parts again"
            )
        parts.append(found)
    announced = parts[0].metadata.number("split.tensors.count", default=0)
    there = sum(len(found.infos) for found in parts)
    if announced and announced != there:
        raise CorruptFile(
            f"{parts[0].path}: the first of {count} parts announces {announced} tensors and all parts hold {there}; "
            "fetch the parts again"
        )
    return parts
