"""The native CPU backend: a C++ model that runs a whole step in one call and releases the GIL meanwhile."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

import numpy as np

from befit.backends.base import F32, Sampler, SamplerSpec, StepBatch, StepResult
from befit.backends.native import _native
from befit.backends.native.lower import Lowering
from befit.errors import ConfigError
from befit.models.program import Program
from befit.weights.tensor import Tensor, Weight

PAGE = 16
_NONE = np.empty(0, np.int32)


def choose_isa() -> str:
    """The best instruction set of this CPU, or the one that BEFIT_ISA names; ConfigError when it is not there."""
    have = list(_native.isas())
    wanted = os.environ.get("BEFIT_ISA", "")
    if wanted and wanted not in have:
        raise ConfigError(
            f"BEFIT_ISA is {wanted!r}; this build on this CPU runs {', '.join(have)}. Unset it or name one."
        )
    return wanted or have[0]


class NativeBackend:
    """Implements `Backend` for CPUs. Weights are repacked at load; the file's bytes are read once."""

    name = "native"

    def __init__(
        self,
        program: Program,
        tensors: Mapping[str, Weight],
        *,
        block_size: int,
        n_blocks: int,
        threads: int,
        kv_dtype: str,
        max_tokens: int,
        max_rows: int,
        on_progress: Callable[[int, int], None] | None = None,
        release: Callable[[Tensor], None] | None = None,
    ) -> None:
        if block_size != PAGE:
            raise ConfigError(f"block_size is {block_size}; the native backend has pages of {PAGE} tokens.")
        self.block_size = block_size
        self.n_blocks = n_blocks
        self.isa = choose_isa()
        model = _native.Model(self.isa, threads, kv_dtype, max_tokens, max_rows, n_blocks)
        lowering = Lowering(
            model, program, tensors, center_keys=kv_dtype == "int8", on_progress=on_progress, release=release
        )
        lowering.run()
        self._tables = lowering.tables  # the model reads embedding rows from these as they lie in the file
        self._model: _native.Model | None = model

    @property
    def model(self) -> _native.Model:
        """The C++ model; ConfigError after close()."""
        if self._model is None:
            raise ConfigError("This backend was closed; load the model again.")
        return self._model

    @property
    def kv_bytes(self) -> int:
        """Bytes of the KV pool."""
        return self.model.kv_bytes

    @property
    def weight_bytes(self) -> int:
        """Bytes of packed weights in memory."""
        return self.model.weight_bytes

    def new_sampler(self, spec: SamplerSpec, prompt: list[int]) -> Sampler:
        """See `Backend.new_sampler`."""
        return native_sampler(spec, prompt)

    def step(self, batch: StepBatch) -> StepResult:
        """See `Backend.step`."""
        arrays = (*_arrays(batch), batch.hidden if batch.hidden is not None else _NONE)
        masks = batch.masks
        if masks is None:
            return StepResult(*self.model.step(batch.samplers, *arrays))
        gate = _native.Gate()
        masks.ready.add_done_callback(lambda _: gate.open())
        return StepResult(
            *self.model.step_masked(batch.samplers, *arrays, index=masks.index, bits=masks.bits, ready=gate)
        )

    def logits(self, batch: StepBatch) -> F32:
        """See `Backend.logits`."""
        return self.model.logits(*_arrays(batch))

    def close(self) -> None:
        """See `Backend.close`."""
        self._model = None
        self._tables = []


def native_sampler(spec: SamplerSpec, prompt: list[int]) -> _native.Sampler:
    """The C++ sampling state of one sequence."""
    return _native.Sampler(
        temperature=spec.temperature,
        top_k=spec.top_k,
        top_p=spec.top_p,
        min_p=spec.min_p,
        typical_p=spec.typical_p,
        repetition_penalty=spec.repetition_penalty,
        frequency_penalty=spec.frequency_penalty,
        presence_penalty=spec.presence_penalty,
        seed=spec.seed,
        logit_bias=list(spec.logit_bias),
        bad_words=[list(word) for word in spec.bad_words],
        min_tokens=spec.min_tokens,
        stop_ids=list(spec.stop_ids),
        allowed_ids=list(spec.allowed_ids),
        watermark=spec.watermark,
        prompt=prompt if spec.repetition_penalty != 1 else prompt[-1:] if spec.watermark else [],
    )


def _arrays(batch: StepBatch) -> tuple[np.ndarray, ...]:
    return (
        batch.tokens,
        batch.positions,
        batch.query_start,
        batch.context_len,
        batch.block_tables,
        batch.rows,
        batch.targets,
        batch.logprobs,
        batch.drafts if batch.drafts is not None else _NONE,
    )
