"""The headers of a model on the Hugging Face Hub, or a mirror of it, by range requests: kilobytes, not gigabytes."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from befit.errors import CorruptFile
from befit.store.hub import parse_json, read_file
from befit.store.repository import Repository
from befit.weights.safetensors_header import LENGTH_BYTES, header_length

_GGUF_HEADS = (1 << 20, 8 << 20, 64 << 20)
"""How much of a GGUF file is fetched until its header is whole: large vocabularies take some megabytes."""
_PARALLEL = 8


def read_json(repository: Repository, file: str) -> Any:
    """A small JSON file. Raises ModelNotFound when it is not there."""
    return parse_json(read_file(repository, file)[0], f"{repository.name}/{file}")


def fetch_folder_head(repository: Repository, files: Sequence[str], folder: Path) -> None:
    """The files of a model in `folder`: JSON as it is, and safetensors of full length that hold their headers only.

    Each of those takes two range requests, and the header's room on the disk. Reading weights gives zeros.
    """

    def one(file: str) -> None:
        path = folder / file
        if not file.endswith(".safetensors"):
            path.write_bytes(read_file(repository, file)[0])
            return
        where = f"{repository.name}/{file}"
        start, size = read_file(repository, file, 0, LENGTH_BYTES)
        header, _ = read_file(repository, file, LENGTH_BYTES, header_length(start, where))
        with path.open("wb") as head:
            head.write(start + header)
            head.truncate(max(size, len(start) + len(header)))

    with ThreadPoolExecutor(_PARALLEL) as pool:
        list(pool.map(one, files))


def fetch_gguf_head(repository: Repository, file: str, folder: Path) -> Path:
    """A file of full length in `folder` that holds the header of a GGUF file and is empty otherwise.

    It takes the header's room on the disk only. Reading weights from it gives zeros.
    """
    from befit.weights.gguf_part import read_part

    path = folder / Path(file).name
    for count in _GGUF_HEADS:
        data, size = read_file(repository, file, 0, count)
        with path.open("wb") as head:
            head.write(data)
            head.truncate(max(size, len(data)))
        try:
            part = read_part(path)
        except CorruptFile:
            if len(data) >= size or count == _GGUF_HEADS[-1]:
                raise
            continue
        # A header that was cut off may still read as one, of empty strings; but then it ends behind what was fetched.
        if min((info.start for info in part.infos.values()), default=0) <= len(data) or len(data) >= size:
            return path
    raise CorruptFile(f"{repository.name}/{file}: the header is longer than {_GGUF_HEADS[-1]} bytes; use another file.")


def temporary_folder() -> tempfile.TemporaryDirectory[str]:
    """Where heads of files lie while they are read."""
    return tempfile.TemporaryDirectory(prefix="befit-plan-")
