"""The oracle: a `Program` interpreted op by op in NumPy float32 over a paged KV cache.

It is written to be checked by reading, and every other backend is checked against it. Weights are dequantised to
float32 once, at load.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from befit.backends.base import F32, NON_FINITE, OK, VOID, Sampler, SamplerSpec, StepBatch, StepResult
from befit.backends.reference import ops
from befit.backends.reference.sampling import ReferenceSampler, log_softmax, rank_of, top_of
from befit.models.program import Act, Add, Attention, Embed, GatedAct, Linear, Logits, Norm, Program
from befit.weights.tensor import Tensor


class ReferenceBackend:
    """A loaded model.

    max_tokens and max_rows bound a step's tokens and rows. kv_dtype float16 stores keys and values rounded to half
    precision, as fast backends do; the default float32 does not round.
    on_progress(done, total) counts bytes of weights loaded; release(tensor) is called once a tensor has been copied.
    """

    name = "reference"

    def __init__(
        self,
        program: Program,
        tensors: Mapping[str, Tensor],
        *,
        block_size: int,
        n_blocks: int,
        max_tokens: int,
        max_rows: int,
        kv_dtype: npt.DTypeLike = np.float32,
        on_progress: Callable[[int, int], None] | None = None,
        release: Callable[[Tensor], None] | None = None,
    ) -> None:
        self.program = program
        self.block_size = block_size
        self.n_blocks = n_blocks
        self.max_tokens = max_tokens
        self.max_rows = max_rows
        self._weights: dict[str, F32] = {}
        names = program.weight_names()
        total, done = sum(tensors[name].nbytes for name in names), 0
        for name in names:
            tensor = tensors[name]
            self._weights[name] = tensor.dequantize()
            if release:
                release(tensor)
            done += tensor.nbytes
            if on_progress:
                on_progress(done, total)
        # One (k, v) pair a layer, each [n_blocks, block_size, n_kv_heads, head_dim].
        self._kv: dict[int, tuple[npt.NDArray[Any], npt.NDArray[Any]]] = {}
        for op in program.attentions():
            shape = (n_blocks, block_size, op.n_kv_heads, op.head_dim)
            self._kv[op.layer] = (np.zeros(shape, kv_dtype), np.zeros(shape, kv_dtype))

    def new_sampler(self, spec: SamplerSpec, prompt: list[int]) -> Sampler:
        """Sampling state of one sequence; ids outside the vocabulary raise ValueError."""
        return ReferenceSampler(spec, prompt, self.program.vocab_size)

    def step(self, batch: StepBatch) -> StepResult:
        """Run the batch and sample or score its rows."""
        for r, sampler in enumerate(batch.samplers):
            if (sampler is None) != (batch.targets[r] >= 0):
                raise ValueError(f"row {r} must have either a sampler or a target, target is {batch.targets[r]}")
        final = self._forward(batch)
        logits = self._head(final[batch.rows])
        n_rows = len(batch.rows)
        result = StepResult(
            tokens=np.full(n_rows, -1, np.int32),
            status=np.full(n_rows, OK, np.uint8),
            logprob=np.zeros(n_rows, np.float32),
            rank=np.zeros(n_rows, np.int32),
            top=[[] for _ in range(n_rows)],
            hidden=None if batch.hidden is None else final[batch.hidden],
        )
        drafts = [-1] * n_rows if batch.drafts is None else batch.drafts.tolist()
        for r, row in enumerate(logits):
            if r and drafts[r - 1] >= 0 and (result.status[r - 1] != OK or result.tokens[r - 1] != drafts[r - 1]):
                result.status[r] = VOID
                continue
            target, sampler = int(batch.targets[r]), batch.samplers[r]
            token: int | None = None
            if np.isfinite(row).all():
                token = target if sampler is None else sampler.sample(row)
            if token is None:
                result.status[r] = NON_FINITE
                continue
            result.tokens[r] = token
            if batch.logprobs[r] >= 0:
                result.logprob[r] = log_softmax(row)[token]
                result.rank[r] = rank_of(row, token)
                result.top[r] = top_of(row, int(batch.logprobs[r]))
        return result

    def logits(self, batch: StepBatch) -> F32:
        """Run the batch and return the logits of its rows, [R, vocab]."""
        return self._head(self._forward(batch)[batch.rows])

    def _head(self, final: F32) -> F32:
        head = self.program.ops[-1]
        assert isinstance(head, Logits)
        with np.errstate(all="ignore"):
            return ops.linear(final, self._weights[head.weight])

    def _forward(self, batch: StepBatch) -> F32:
        """Run the batch up to the head; what that reads, [T, hidden]."""
        self._check(batch)
        values: dict[str, F32] = {}
        with np.errstate(all="ignore"):  # damaged weights give NaN rows, which are reported row by row
            for op in self.program.ops:
                match op:
                    case Embed():
                        values[op.out] = self._weights[op.weight][batch.tokens] * np.float32(op.scale)
                    case Norm():
                        values[op.out] = self._norm(op, values[op.x])
                    case Linear():
                        values[op.out] = ops.linear(values[op.x], self._weights[op.weight], self._maybe(op.bias))
                    case Attention():
                        values[op.out] = self._attention(op, values[op.q], values[op.k], values[op.v], batch)
                    case Act():
                        values[op.out] = ops.activation(values[op.x], op.fn)
                    case GatedAct():
                        values[op.out] = ops.activation(values[op.gate], op.fn) * values[op.up]
                    case Add():
                        values[op.out] = values[op.a] + values[op.b]
                    case Logits():
                        return values[op.x]
        raise ValueError("the program does not end in Logits")

    def close(self) -> None:
        """Free the weights and the pool."""
        self._weights.clear()
        self._kv.clear()

    def _norm(self, op: Norm, x: F32) -> F32:
        weight = self._weights[op.weight]
        if op.kind == "layer":
            return ops.layer_norm(x, weight, self._maybe(op.bias), op.eps)
        normed = ops.rms_norm(x, weight, op.eps)
        return normed if op.bias is None else normed + self._weights[op.bias]

    def _attention(self, op: Attention, q: F32, k: F32, v: F32, batch: StepBatch) -> F32:
        n_tokens = len(batch.tokens)
        q = q.reshape(n_tokens, op.n_heads, op.head_dim)
        k = k.reshape(n_tokens, op.n_kv_heads, op.head_dim)
        v = v.reshape(n_tokens, op.n_kv_heads, op.head_dim)
        if op.q_norm:
            q = ops.rms_norm(q, self._weights[op.q_norm], op.norm_eps)
        if op.k_norm:
            k = ops.rms_norm(k, self._weights[op.k_norm], op.norm_eps)
        if op.rope:
            q = ops.rotate(q, batch.positions, op.rope)
            k = ops.rotate(k, batch.positions, op.rope)

        k_pages, v_pages = self._kv[op.layer]
        sequences = np.repeat(np.arange(len(batch.context_len)), np.diff(batch.query_start))
        pages = batch.block_tables[sequences, batch.positions // self.block_size]
        k_pages[pages, batch.positions % self.block_size] = k
        v_pages[pages, batch.positions % self.block_size] = v

        out = np.empty_like(q)
        for s, length in enumerate(batch.context_len):
            queries = slice(batch.query_start[s], batch.query_start[s + 1])
            table = batch.block_tables[s, : -(-length // self.block_size)]
            past_k = k_pages[table].reshape(-1, op.n_kv_heads, op.head_dim)[:length].astype(np.float32)
            past_v = v_pages[table].reshape(-1, op.n_kv_heads, op.head_dim)[:length].astype(np.float32)
            out[queries] = ops.attend(q[queries], past_k, past_v, batch.positions[queries], op.scale, op.window)
        return out.reshape(n_tokens, op.n_heads * op.head_dim)

    def _maybe(self, name: str | None) -> F32 | None:
        return self._weights[name] if name else None

    def _check(self, batch: StepBatch) -> None:
        """Raise ValueError for a batch that would read or write where it must not: a mistake of the caller."""
        n_tokens, n_rows = len(batch.tokens), len(batch.rows)
        if n_tokens > self.max_tokens or n_rows > self.max_rows:
            raise ValueError(
                f"the batch has {n_tokens} tokens and {n_rows} rows; "
                f"the backend was made for {self.max_tokens} and {self.max_rows}"
            )
        vocab = self.program.vocab_size
        if n_tokens and (batch.tokens.min() < 0 or batch.tokens.max() >= vocab):
            raise ValueError(f"token ids must be in 0..{vocab - 1}")
        if n_rows and batch.targets.max() >= vocab:
            raise ValueError(f"targets must be in 0..{vocab - 1}, or negative to sample")
        hidden = [] if batch.hidden is None else batch.hidden.tolist()
        free = set(range(n_tokens)).difference(batch.rows.tolist())
        if len(set(hidden)) < len(hidden) or not free.issuperset(hidden):
            raise ValueError(f"hidden must name tokens in 0..{n_tokens - 1}, each once, that are no rows")
        drafts = [] if batch.drafts is None else batch.drafts.tolist()
        for r, draft in enumerate(drafts):
            if draft < 0:
                continue
            after = int(batch.rows[r]) + 1
            if r + 1 >= n_rows or batch.rows[r + 1] != after or batch.samplers[r + 1] is not batch.samplers[r]:
                raise ValueError(f"row {r} has a draft; the next row must be that of the next token, with its sampler")
            if batch.tokens[after] != draft:
                raise ValueError(f"row {r} has draft {draft}, but token {batch.tokens[after]} follows it")
        for s, length in enumerate(batch.context_len):
            positions = batch.positions[batch.query_start[s] : batch.query_start[s + 1]]
            pages = batch.block_tables[s, : -(-int(length) // self.block_size)]
            if len(pages) * self.block_size < length or (pages < 0).any() or (pages >= self.n_blocks).any():
                raise ValueError(
                    f"sequence {s} of {length} tokens has no valid page for each of them: {pages.tolist()}"
                )
            if len(positions) == 0 or positions.min() < 0 or positions.max() != length - 1:
                raise ValueError(f"sequence {s} has context {length} and queries at {positions.tolist()}")
