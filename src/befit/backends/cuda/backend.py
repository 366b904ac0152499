"""The CUDA backend: one step is one transfer to the device, the program, sampling there, and one transfer back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import wait
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import numpy as np
import torch

from befit.backends.base import F32, NON_FINITE, OK, VOID, Sampler, SamplerSpec, StepBatch, StepResult
from befit.backends.cuda.check import check_batch
from befit.backends.cuda.choices import Choices, first, for_attention
from befit.backends.cuda.device import Target, choose_target
from befit.backends.cuda.executor import Executor
from befit.backends.cuda.graphs import Graphs, Recorder, padded
from befit.backends.cuda.kernel_cache import keep_kernels
from befit.backends.cuda.kv import DTYPES as KV_DTYPES
from befit.backends.cuda.kv import MOST, KVPool, centers_of
from befit.backends.cuda.sampler import TorchSampler
from befit.backends.cuda.sampling import Row, sample, score, send_masks
from befit.backends.cuda.staging import Shape, Staging, StepInput, shape_of
from befit.backends.cuda.weights import DTYPES, Weights, load_weights
from befit.errors import ConfigError, OutOfDeviceMemory
from befit.models.program import GatedAct, Logits, Program
from befit.weights.tensor import Tensor, Weight


class _Outputs(NamedTuple):
    """What a step leaves on the device.

    final: inputs of the head, float32 [R + H, hidden]; of a program without a head its result, [T, hidden]. logits:
    float32 [R, vocab]. likeliest: int64 [2, R], the likeliest token of each row, and 1 where its logits are finite.
    """

    final: torch.Tensor
    logits: torch.Tensor
    likeliest: torch.Tensor


class CudaBackend:
    """Implements `Backend` on a card, or on a CPU for checking.

    target: the device; None is what `choose_target` finds. kv_dtype: "f16", "int8", "fp8" or "f32". recorder: how
    decode steps are recorded; None is CUDA graphs on a card and not at all on a CPU. weights: those on the device
    already, so that `tensors` is not looked at. Raises ConfigError for what cannot be, and OutOfDeviceMemory when the
    weights and the pool do not fit.
    """

    name = "cuda"

    def __init__(
        self,
        program: Program,
        tensors: Mapping[str, Weight],
        *,
        block_size: int,
        n_blocks: int,
        max_tokens: int,
        max_rows: int,
        kv_dtype: str = "f16",
        target: Target | None = None,
        recorder: Recorder | None = None,
        weights: Weights | None = None,
        on_progress: Callable[[int, int], None] | None = None,
        release: Callable[[Tensor], None] | None = None,
    ) -> None:
        if kv_dtype not in KV_DTYPES:
            raise ConfigError(
                f"kv_dtype is {kv_dtype!r}; the cuda backend keeps keys and values as {', '.join(KV_DTYPES)}."
            )
        self.program = program
        self.block_size = block_size
        self.n_blocks = n_blocks
        self.max_tokens = max_tokens
        self.max_rows = max_rows
        self.target = target or choose_target()
        self.device = torch.device(self.target.device)
        if self.target.is_cuda and self.target.triton:
            keep_kernels(torch.cuda.get_device_name(self.device), self.target.capability)
        self.choices = Choices(self.target)
        dtype = DTYPES[self.target.compute]
        try:
            self.weights = weights or load_weights(
                program, tensors, self.device, dtype, on_progress=on_progress, release=release
            )
            centers = centers_of(program, self.weights) if kv_dtype in MOST else {}
            self.kv = KVPool(program, n_blocks, block_size, kv_dtype, self.device, centers=centers, target=self.target)
        except torch.OutOfMemoryError as error:
            raise OutOfDeviceMemory(
                f"{self.target.device} has no room for the weights and {n_blocks} pages of KV cache: {error}. "
                "Set --memory to less than what is free, or take a smaller model."
            ) from error
        self._pages = min(n_blocks, -(-program.max_context // block_size))
        self._seqs = min(max_tokens, max_rows)
        largest = Shape(max_tokens, self._seqs, max_rows, max_tokens, self._pages, False)
        self._staging = Staging(largest.words, self.device, block_size=block_size, scratch=self.kv.scratch)
        if recorder is None and self.target.is_cuda:
            from befit.backends.cuda.record import CudaRecorder

            recorder = CudaRecorder()
        self.graphs: Graphs[_Outputs] = Graphs(recorder)
        self._executor = Executor(program, self.weights, self.kv, self.choices, dtype)
        heads = [op.head_dim for op in program.attentions()]
        self._all_pages = all(first(for_attention(self.target, d)).name != "torch" for d in heads)

    @property
    def kv_bytes(self) -> int:
        """Bytes of the KV pool, its scratch page included."""
        return self.kv.nbytes

    @property
    def weight_bytes(self) -> int:
        """Bytes of weights on the device."""
        return self.weights.nbytes

    def why(self) -> list[str]:
        """Which code computes what, and why, for people."""
        acts = [op.fn for op in self.program.ops if isinstance(op, GatedAct)]
        head = max(op.head_dim for op in self.program.attentions())
        lines = self.choices.table(head_dim=head, width=self.program.hidden_size, fn=acts[0] if acts else "silu")
        return [*lines, f"decode steps: {'recorded' if self.graphs.on else f'not recorded, {self.graphs.why_off}'}"]

    def new_sampler(self, spec: SamplerSpec, prompt: list[int]) -> Sampler:
        """See `Backend.new_sampler`; ids outside the vocabulary raise ValueError."""
        return TorchSampler(spec, prompt, self.program.vocab_size, self.device)

    @torch.inference_mode()
    def step(self, batch: StepBatch) -> StepResult:
        """See `Backend.step`. Raises OutOfDeviceMemory; the step has not happened then, and may be tried with less."""
        for r, sampler in enumerate(batch.samplers):
            if (sampler is None) != (batch.targets[r] >= 0):
                raise ValueError(f"row {r} must have either a sampler or a target, target is {batch.targets[r]}")
        self._check(batch)
        try:
            with self._current():
                return self._sampled(batch, self._forward(batch))
        except torch.OutOfMemoryError as error:
            raise self._out_of_memory(batch, error) from error

    @torch.inference_mode()
    def logits(self, batch: StepBatch) -> F32:
        """See `Backend.logits`."""
        self._check(batch)
        with self._current():
            logits: F32 = self._forward(batch).logits.cpu().numpy()
        return logits

    @torch.inference_mode()
    def activations(self, batch: StepBatch) -> F32:
        """Run the batch through a program without a head: its result for every token, [T, hidden]. Raises
        OutOfDeviceMemory."""
        self._check(batch)
        try:
            with self._current():
                values: F32 = self._forward(batch).final.cpu().numpy()
        except torch.OutOfMemoryError as error:
            raise self._out_of_memory(batch, error) from error
        return values

    def close(self) -> None:
        """See `Backend.close`."""
        self.graphs.invalidate()
        self.weights.clear()
        self.kv.pages.clear()
        if self.target.is_cuda:
            torch.cuda.empty_cache()

    def _current(self) -> AbstractContextManager[None]:
        """Makes the device the current one of this thread: kernels and graphs are launched there."""
        if not self.target.is_cuda:
            return nullcontext()
        current: AbstractContextManager[None] = torch.cuda.device(self.device)
        return current

    def _check(self, batch: StepBatch) -> None:
        check_batch(
            batch,
            vocab=self.program.vocab_size,
            block_size=self.block_size,
            n_blocks=self.n_blocks,
            max_tokens=self.max_tokens,
            max_rows=self.max_rows,
        )

    def _forward(self, batch: StepBatch) -> _Outputs:
        """What the program makes of the batch, on the device."""
        shape = shape_of(batch, self.block_size)
        bucket = None
        if self.graphs.on:
            bucket = padded(shape, most_seqs=self._seqs, most_pages=self._pages, all_pages=self._all_pages)
        if bucket is None:
            return self._run(self._staging.load(batch, shape))
        step = self._staging.load(batch, bucket)
        out = self.graphs.run(bucket, lambda: self._run(step))
        has_head = isinstance(self.program.ops[-1], Logits)
        rows = shape.rows
        return _Outputs(out.final[: rows if has_head else shape.tokens], out.logits[:rows], out.likeliest[:, :rows])

    def _run(self, step: StepInput) -> _Outputs:
        """The program, and what greedy sampling needs of it: all that a recording holds."""
        final, logits = self._executor.run(step)
        if not len(logits):
            return _Outputs(final, logits, torch.empty((2, 0), dtype=torch.int64, device=logits.device))
        finite = torch.isfinite(logits).all(dim=-1)
        return _Outputs(final, logits, torch.stack((logits.argmax(dim=-1), finite.long())))

    def _sampled(self, batch: StepBatch, out: _Outputs) -> StepResult:
        final, logits = out.final, out.logits
        n_rows = len(batch.rows)
        result = StepResult(
            tokens=np.full(n_rows, -1, np.int32),
            status=np.full(n_rows, OK, np.uint8),
            logprob=np.zeros(n_rows, np.float32),
            rank=np.zeros(n_rows, np.int32),
            top=[[] for _ in range(n_rows)],
            hidden=None,
        )
        if batch.hidden is not None:
            result.hidden = final[n_rows:].cpu().numpy()
        if not n_rows:
            return result
        if batch.masks is None and all(sampler is not None and sampler.plain for sampler in batch.samplers):
            chosen = out.likeliest
            tokens = chosen[0]
        else:
            tokens = self._choose(batch, logits)
            chosen = torch.stack((tokens, out.likeliest[1]))
        scored = np.flatnonzero(batch.logprobs >= 0)
        scores = None
        if len(scored):
            index = torch.from_numpy(scored).to(self.device)
            scores = score(logits[index], tokens[index].clamp(min=0), int(batch.logprobs.max()))
        on_host = chosen.cpu().numpy()
        self._accept(batch, on_host[0].tolist(), on_host[1].tolist(), result)
        if scores is not None:
            logprob, rank = scores.logprob.cpu().numpy(), scores.rank.cpu().numpy()
            ids, top = scores.ids.cpu().tolist(), scores.top.cpu().tolist()
            for i, r in enumerate(scored.tolist()):
                if result.status[r] == OK:
                    result.logprob[r], result.rank[r] = logprob[i], rank[i]
                    result.top[r] = list(zip(ids[i], top[i], strict=True))[: int(batch.logprobs[r])]
        return result

    def _choose(self, batch: StepBatch, logits: torch.Tensor) -> torch.Tensor:
        """What each row samples, or its target, int64 [R]."""
        rows: list[Row] = []
        at: list[int] = []
        masks = None
        index = [-1] * len(batch.rows)
        if batch.masks is not None:
            wait([batch.masks.ready])
            masks, index = send_masks(batch.masks.bits, self.device), batch.masks.index.tolist()
        ahead: list[int] = []
        for r, sampler in enumerate(batch.samplers):
            if sampler is not None:
                rows.append(Row(sampler, ahead, index[r]))
                at.append(r)
            draft = -1 if batch.drafts is None else int(batch.drafts[r])
            ahead = [*ahead, draft] if draft >= 0 else []
        tokens = torch.from_numpy(batch.targets.astype(np.int64)).to(self.device)
        if len(rows) == len(batch.rows):
            tokens = sample(logits, rows, masks)
        elif rows:
            where = torch.tensor(at, device=self.device)
            tokens[where] = sample(logits[where], rows, masks)
        return tokens

    @staticmethod
    def _accept(batch: StepBatch, tokens: list[int], finite: list[int], result: StepResult) -> None:
        """Which rows count: behind a draft that was not sampled, none does. Samplers remember what was."""
        right = True  # whether the draft before this row, if there is one, was sampled
        for r, (token, sampler) in enumerate(zip(tokens, batch.samplers, strict=True)):
            if not right:
                result.status[r] = VOID
            elif not finite[r] or token < 0:
                result.status[r] = NON_FINITE
            else:
                result.tokens[r] = token
                if sampler is not None:
                    sampler.accept(token)
            draft = -1 if batch.drafts is None else int(batch.drafts[r])
            right = draft < 0 or (result.status[r] == OK and token == draft)

    def _out_of_memory(self, batch: StepBatch, error: Exception) -> OutOfDeviceMemory:
        """The device is full: let go of what can be made anew, and say how large the step was."""
        self.graphs.invalidate()
        if self.target.is_cuda:
            torch.cuda.empty_cache()
        return OutOfDeviceMemory(
            f"{self.target.device} ran out of memory in a step of {len(batch.tokens)} tokens and "
            f"{len(batch.context_len)} sequences: {error}. Set --memory to less, or --token-budget or --max-seqs lower."
        )
