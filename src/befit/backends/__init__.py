"""Backends run a `Program`. `create` makes one by name; importing this package loads none of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from befit.backends.base import Backend
from befit.errors import ConfigError
from befit.models.program import Program
from befit.weights.tensor import DenseTensor, PackedTensor, Tensor, Weight

if TYPE_CHECKING:
    from befit.backends.cuda.device import Target

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
    card_layers: int | None = None,
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
    card_layers: so many layers on the card, and the others, on `threads` threads, natively; None is all, or none.
    on_progress(done, total): bytes of weights read so far. release(tensor): called when the file's copy of a tensor is
    not needed any more. Raises UnsupportedModel when the backend cannot run the program, ConfigError when the weights
    are packed for another one or the machine has no such device.
    """
    _check_packed(name, tensors, card_layers)
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
        if card_layers is not None:
            return _split(
                program,
                tensors,
                card_layers,
                {
                    "n_blocks": n_blocks,
                    "block_size": block_size,
                    "max_tokens": max_tokens,
                    "max_rows": max_rows,
                    "kv_dtype": kv_dtype or "f16",
                },
                target=target,
                threads=threads,
                on_progress=on_progress,
                release=release,
            )
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

    plain = {key: weight for key, weight in tensors.items() if not isinstance(weight, PackedTensor)}
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


def _check_packed(name: str, tensors: Mapping[str, Weight], card_layers: int | None) -> None:
    """Raise ConfigError where matrices are packed for a backend that is not the one, or not the only one, to run."""
    packed = [weight.backend for weight in tensors.values() if isinstance(weight, PackedTensor)]
    if card_layers is not None and packed:
        raise ConfigError(
            f"{len(packed)} matrices are packed for the {packed[0]} backend alone, and the model does not fit the "
            "card; load the GGUF file or folder that they were built from."
        )
    if set(packed) - {name}:
        raise ConfigError(
            f"{len(packed)} matrices are packed for the {packed[0]} backend and the {name} backend cannot read them; "
            "load the GGUF file or folder that they were built from."
        )


def _split(
    program: Program,
    tensors: Mapping[str, Weight],
    card_layers: int,
    sizes: dict[str, Any],
    *,
    target: Target,
    threads: int,
    on_progress: Callable[[int, int], None] | None,
    release: Callable[[Tensor], None] | None,
) -> Backend:
    """The first layers on the card, the others on the native backend."""
    import numpy as np

    from befit.backends.cuda.backend import CudaBackend
    from befit.backends.native.backend import NativeBackend
    from befit.backends.split import SplitBackend
    from befit.models.cut import ACTIVATIONS, cut

    front, back = cut(program, card_layers)
    shape = (sizes["max_tokens"], program.hidden_size)
    table = np.zeros(shape, np.float32)
    beside = {**tensors, ACTIVATIONS: DenseTensor(ACTIVATIONS, shape, "f32", table)}
    first, second = (sum(beside[name].nbytes for name in half.weight_names()) for half in (front, back))

    def later(done: int, _: int) -> None:
        if on_progress:
            on_progress(first + done, first + second)

    def freed(tensor: Tensor) -> None:
        if release and tensor.name != ACTIVATIONS:
            release(tensor)

    def sooner(done: int, _: int) -> None:
        if on_progress:
            on_progress(done, first + second)

    on_card = CudaBackend(front, tensors, **sizes, target=target, on_progress=sooner, release=release)
    try:
        on_cpu = NativeBackend(back, beside, **sizes, threads=threads, on_progress=later, release=freed)
        return SplitBackend(on_card, on_cpu, table)
    except BaseException:
        on_card.close()
        raise
