"""A model as its makers published it, whatever the files: metadata under GGUF's names, and canonical tensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol, Self

from befit.weights.tensor import Tensor


class Checkpoint(Protocol):
    """An open model; see `GGUFFile`, whose interface this is.

    paths: the files that it is made of. size: bytes of those that hold tensors. types: type and bytes of every tensor.
    notes: what was not taken over exactly, for people.
    """

    path: Path
    paths: list[Path]
    size: int
    metadata: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    notes: list[str]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every tensor, rows first."""
        ...

    @property
    def types(self) -> list[tuple[str, int]]:
        """Type and bytes of every tensor."""
        ...

    def check(self, names: Iterable[str] | None = None) -> None:
        """Raise UnsupportedModel unless each of these tensors (default: all) is there and can be read."""
        ...

    def release(self, tensor: Tensor) -> None:
        """Tell the system that the memory behind a tensor is not needed any more; it stays valid."""
        ...

    def close(self) -> None:
        """Let go of the files. Tensors made before stay valid."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: Any) -> None: ...


def open_checkpoint(path: Path) -> Checkpoint:
    """Open a GGUF file, or a Hugging Face folder by its path or that of its config.json.

    Raises the errors of `GGUFFile.open` and `HFFolder.open`.
    """
    if path.name == "config.json":
        path = path.parent
    if path.is_dir():
        from befit.weights.hf_folder import HFFolder

        return HFFolder.open(path)
    from befit.weights.gguf import GGUFFile

    return GGUFFile.open(path)
