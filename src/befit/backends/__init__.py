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
    name: Literal["native", "reference", "cuda"],
    program: Program,
    tensors: Mapping[str, Weight],
    *,
    n_blocks: int,
    threads: int = 1,
    kv_dtype: str | None = None,
    max_tokens: int,
    max_rows: int,
    block_size: int = BLOCK_SIZE,
    on_progress: Callable[[int, int], None] | None = None,
    release: Callable[[Tensor], None] | None = None,
) -> Backend:
    """Load `program` with `tensors` into a backend.

    n_blocks: pages of the KV pool. max_tokens, max_rows: the largest step (T and R of `StepBatch`).
    threads: of the native backend.
    kv_dtype: how keys and values are kept: "f16" (default) or "int8" natively, "f32" by the reference, "f16" (default),
    "int8", "fp8" or "f32" on a card.
    on_progress(done, total): bytes of weights read so far. release(tensor): called when the file's copy of a tensor is
    not needed any more. Raises UnsupportedModel when the backend cannot run the program, ConfigError when the weights
    are packed for another one or the machine has no such device.
    """
    if name == "native":
        from befit.backends.native.backend import NativeBackend

        return NativeBackend(
            program,
            tensors,
            block_size=block_size,
            n_blocks=n_blocks,
            threads=threads,
            kv_dtype=kv_dtype or "f16",
            max_tokens=max_tokens,
            max_rows=max_rows,
            on_progress=on_progress,
            release=release,
        )
    if name == "cuda":
        from befit.backends.cuda.device import choose_target

        target = choose_target()  # says what is missing before anything imports torch
        from befit.backends.cuda.backend import CudaBackend

        return CudaBackend(
            program,
            tensors,
            block_size=block_size,
            n_blocks=n_blocks,
            max_tokens=max_tokens,
            max_rows=max_rows,
            kv_dtype=kv_dtype or "f16",
            target=target,
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
