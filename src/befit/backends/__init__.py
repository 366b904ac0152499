"""Backends run a `Program`. `create` makes one by name; importing this package loads none of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

from befit.backends.base import Backend
from befit.errors import ConfigError
from befit.models.program import Program
from befit.weights.tensor import PackedTensor, Tensor, Weight

BLOCK_SIZE = 16
"""Tokens of a KV page, the same for every backend."""


def create(
    name: Literal["native", "reference"],
    program: Program,
    tensors: Mapping[str, Weight],
    *,
    n_blocks: int,
    threads: int = 1,
    max_tokens: int,
    max_rows: int,
    block_size: int = BLOCK_SIZE,
    on_progress: Callable[[int, int], None] | None = None,
    release: Callable[[Tensor], None] | None = None,
) -> Backend:
    """Load `program` with `tensors` into a backend.

    n_blocks: pages of the KV pool. max_tokens, max_rows: the largest step (T and R of `StepBatch`).
    threads: of the native backend.
    on_progress(done, total): bytes of weights read so far. release(tensor): called when the file's copy of a tensor is
    not needed any more. Raises UnsupportedModel when the backend cannot run the program, ConfigError when the weights
    are packed for another one.
    """
    if name == "native":
        from befit.backends.native.backend import NativeBackend

        return NativeBackend(
            program,
            tensors,
            block_size=block_size,
            n_blocks=n_blocks,
            threads=threads,
            max_tokens=max_tokens,
            max_rows=max_rows,
            on_progress=on_progress,
            release=release,
        )
    from befit.backends.reference.backend import ReferenceBackend

    plain = {name: weight for name, weight in tensors.items() if not isinstance(weight, PackedTensor)}
    if len(plain) < len(tensors):
        raise ConfigError(
            f"{len(tensors) - len(plain)} matrices are packed for the native backend and the {name} backend cannot "
            "read them; load the GGUF file that they were built from."
        )
    return ReferenceBackend(
        program,
        plain,
        block_size=block_size,
        n_blocks=n_blocks,
        max_tokens=max_tokens,
        max_rows=max_rows,
        on_progress=on_progress,
        release=release,
    )
