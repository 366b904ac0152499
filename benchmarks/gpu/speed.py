"""How fast is it? One sequence beside what the memory allows, and many requests through the engine."""

from __future__ import annotations

import random
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from correctness import batch_of, host_weights
from shapes import program_of

from befit import backends
from befit.backends.base import SamplerSpec, StepBatch
from befit.backends.cuda.arrays import arrays
from befit.backends.cuda.backend import CudaBackend
from befit.backends.cuda.device import Target
from befit.backends.cuda.dummy import dummy_weights
from befit.backends.cuda.size import step_bytes
from befit.backends.cuda.weights import DTYPES, load_weights
from befit.config import EngineConfig
from befit.engine.core import Engine
from befit.engine.load import LoadedModel
from befit.plan.hardware import physical_cores
from befit.prepared.plan import PAGE, card_matrices
from befit.sampling import SamplingParams
from befit.weights.tensor import DenseTensor, PackedTensor, Weight


class NoText:
    """A tokenizer of tokens without text."""

    bos_id = None
    eos_ids: frozenset[int] = frozenset()
    adds_bos = False

    def __init__(self, vocab: int) -> None:
        self.vocab_size = vocab

    def token_bytes(self, token: int, *, skip_special: bool = True) -> bytes:
        return b"."

    def decode(self, ids: list[int], *, skip_special: bool = True) -> str:
        return "." * len(ids)

    def is_special(self, token: int) -> bool:
        return False


def wait(target: Target) -> None:
    if target.is_cuda:
        torch.cuda.synchronize()


def copy_bandwidth(target: Target) -> float:
    """Bytes a second, read and written, of a large copy on the device: the median of 20."""
    size = (2 << 30) if target.is_cuda else (64 << 20)
    a = torch.randint(0, 100, (size,), dtype=torch.uint8, device=target.device)
    b = torch.empty_like(a)
    times = []
    for _ in range(25):
        wait(target)
        begin = time.perf_counter()
        b.copy_(a)
        wait(target)
        times.append(time.perf_counter() - begin)
    return 2 * size / float(np.median(times[5:]))


def open_backend(
    shape: str,
    form: str | None,
    target: Target,
    *,
    n_blocks: int,
    max_tokens: int,
    max_rows: int,
    kv_dtype: str = "f16",
) -> tuple[CudaBackend, dict[str, Any]]:
    """A backend with weights made on the device, and what that took."""
    program, shapes = program_of(shape)
    begin = time.perf_counter()
    weights = dummy_weights(program, shapes, torch.device(target.device), DTYPES[target.compute], form=form)
    options = {"block_size": 16, "n_blocks": n_blocks, "max_tokens": max_tokens, "max_rows": max_rows}
    backend = CudaBackend(program, {}, target=target, weights=weights, kv_dtype=kv_dtype, **options)
    wait(target)
    activations = step_bytes(program, shapes, max_tokens, max_rows, n_blocks * 16)
    return backend, {
        "shape": shape,
        "weights": form or target.compute,
        "kv_dtype": kv_dtype,
        "weight_bytes": backend.weight_bytes,
        "kv_bytes": backend.kv_bytes,
        "predicted_bytes": backend.weight_bytes + backend.kv_bytes + activations,
        "seconds_to_open": time.perf_counter() - begin,
    }


def decode(
    shape: str,
    form: str | None,
    target: Target,
    bandwidth: float,
    *,
    context: int,
    steps: int,
    kv_dtype: str = "f16",
) -> dict[str, Any]:
    """One greedy sequence from a context of so many tokens on: the median step, and its share of the memory roof."""
    pages = -(-(context + steps) // 16)
    backend, facts = open_backend(
        shape, form, target, n_blocks=pages, max_tokens=max(context, 16), max_rows=8, kv_dtype=kv_dtype
    )
    facts["context"] = context
    sampler = backend.new_sampler(SamplerSpec(), [])
    tokens = [int(t) for t in np.random.default_rng(0).integers(0, backend.program.vocab_size, context)]
    times: list[float] = []
    start, new = 0, tokens
    for _ in range(steps):
        n = len(new)
        batch = StepBatch(
            tokens=np.array(new, np.int32),
            positions=np.arange(start, start + n, dtype=np.int32),
            query_start=np.array([0, n], np.int32),
            context_len=np.array([start + n], np.int32),
            block_tables=np.arange(pages, dtype=np.int32)[None],
            rows=np.array([n - 1], np.int32),
            targets=np.array([-1], np.int32),
            samplers=[sampler],
            logprobs=np.array([-1], np.int32),
        )
        begin = time.perf_counter()
        result = backend.step(batch)  # ends with a transfer to the host, so the step is over
        times.append(time.perf_counter() - begin)
        start, new = start + n, [int(result.tokens[0])]
    step = float(np.median(times[len(times) // 4 :]))
    moved = backend.weight_bytes + context * backend.program.kv_bytes_per_token(kv_dtype)
    if "output.weight" in {op.weight for op in backend.program.ops[-1:]}:  # of the embedding only a row is read
        moved -= backend.weights.matrix("token_embd.weight").nbytes
    facts |= {"first_step_s": times[0], "step_ms": 1e3 * step, "tokens_per_s": 1 / step}
    facts |= {"recorded": len(backend.graphs.recorded), "roof_share": moved / step / bandwidth, "why": backend.why()}
    facts |= peak(target)
    backend.close()
    return facts


def split(shape: str, target: Target, *, steps: int) -> dict[str, Any]:
    """One greedy sequence with half of the layers on the device and the others native, in float16: the median step, and
    how long the device's part takes."""
    program, tensors = host_weights(shape)
    layers = program.n_layers // 2
    backend: Any = backends.create(
        "cuda", program, tensors, card_layers=layers, n_blocks=16, max_tokens=64, max_rows=8,
        threads=physical_cores(),
    )  # fmt: skip
    sampler = backend.new_sampler(SamplerSpec(), [])
    times: list[float] = []
    first: list[float] = []
    inner = backend.front.activations

    def timed(batch: StepBatch) -> Any:
        begin = time.perf_counter()
        out = inner(batch)
        first.append(time.perf_counter() - begin)
        return out

    backend.front.activations = timed
    token = 1
    for at in range(steps):
        batch = batch_of([token], at)
        batch.targets[:], batch.samplers = -1, [sampler]
        begin = time.perf_counter()
        token = int(backend.step(batch).tokens[0])
        times.append(time.perf_counter() - begin)
    step = float(np.median(times[len(times) // 4 :]))
    facts = {"shape": shape, "split": f"{layers} of {program.n_layers} layers on the device", "step_ms": 1e3 * step}
    facts |= {"tokens_per_s": 1 / step, "device_ms": 1e3 * float(np.median(first[len(first) // 4 :]))}
    backend.close()
    return facts


def throughput(
    shape: str, form: str | None, target: Target, *, requests: int, seqs: int, kv_tokens: int, mean: tuple[int, int]
) -> dict[str, Any]:
    """Requests with log-normal lengths of these means (prompt, output), seed 0, all queued at once."""
    rng = random.Random(0)
    lengths = [
        tuple(max(4, min(1024, round(rng.lognormvariate(np.log(m) - 0.32, 0.8)))) for m in mean)
        for _ in range(requests)
    ]
    budget = max(seqs, 2048 if target.is_cuda else 256)
    backend, facts = open_backend(shape, form, target, n_blocks=kv_tokens // 16, max_tokens=budget, max_rows=seqs + 64)
    config = EngineConfig(
        ctx=2048, max_seqs=seqs, token_budget=budget, block_size=16, n_blocks=kv_tokens // 16, threads=1,
        backend="cuda", kv_dtype="f16", prefix_cache=True, max_queue=10**6, speculation="off", draft=None,
    )  # fmt: skip
    vocab = backend.program.vocab_size
    tokenizer: Any = NoText(vocab)
    engine = Engine(LoadedModel(shape, Path(shape), {}, backend.program, tokenizer, backend, config))
    for prompt, output in lengths:
        ids = [rng.randrange(vocab) for _ in range(prompt)]
        engine.add_request(ids, SamplingParams(temperature=0.0, max_tokens=output, ignore_eos=True, loop_guard=False))
    busy, used = 0.0, []
    begin = time.perf_counter()
    while engine.has_work:
        engine.step()
        stats = engine.stats()
        used.append(stats.kv_blocks_used / stats.kv_blocks)
    wait(target)
    busy = time.perf_counter() - begin
    facts |= {
        "requests": requests,
        "prompt_tokens": sum(prompt for prompt, _ in lengths),
        "output_tokens": engine.stats().output_tokens_total,
        "seconds": busy,
        "output_tokens_per_s": engine.stats().output_tokens_total / busy,
        "preemptions": engine.stats().preemptions_total,
        "pages_used_at_most": max(used),
        "recorded": len(backend.graphs.recorded),
    }
    facts |= peak(target)
    backend.close()
    return facts


def load(shape: str, form: str, target: Target) -> dict[str, Any]:
    """From a folder as `befit build --backend cuda` writes it, whose matrices are in the page cache, to the device: the
    least of three times. The bytes are random, and only copied."""
    program, shapes = program_of(shape)
    device = torch.device(target.device)
    pool = np.random.default_rng(0).bytes(1 << 24)
    tensors: dict[str, Weight] = {}
    matrices = card_matrices(program)
    with tempfile.TemporaryFile() as file:
        for name in program.weight_names():
            size = shapes[name]
            if name not in matrices:
                tensors[name] = DenseTensor(name, size, "f32", np.ones(size, np.float32))
                continue
            begin, parts = file.tell(), {}
            for array in arrays(name, form, size):
                parts[array.name] = file.seek(-(-file.tell() // PAGE) * PAGE)
                for start in range(0, array.nbytes, len(pool)):
                    file.write(pool[: array.nbytes - start])
            matrix = (size[0], size[1])
            tensors[name] = PackedTensor(
                name, matrix, form, True, file.fileno(), begin, file.tell() - begin, backend="cuda", parts=parts
            )
        file.flush()
        times = []
        for _ in range(3):
            wait(target)
            begin_s = time.perf_counter()
            weights = load_weights(program, tensors, device, DTYPES[target.compute])
            wait(target)
            times.append(time.perf_counter() - begin_s)
            size_bytes = weights.nbytes
            weights.clear()
    speed = size_bytes / min(times)
    return {"shape": shape, "weights": form, "bytes": size_bytes, "seconds": times, "bytes_per_s": speed}


def peak(target: Target) -> dict[str, int]:
    """The most memory that torch held at once since the last time."""
    if not target.is_cuda:
        return {}
    most = torch.cuda.max_memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    return {"peak_bytes": most}
