from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]
Words = npt.NDArray[np.uint32]
Part = tuple[int, int, Floats | None, bool, str | None]

packed_layout: int

def isas() -> list[str]: ...
def packed_bytes(rows: int, columns: int, format: str) -> int: ...
def pack(raw: Bytes, rows: int, columns: int, format: str, threads: int) -> Bytes: ...
def matmul(isa: str, raw: Bytes, rows: int, columns: int, format: str, x: Floats, repeat: int = 1) -> Floats: ...
def time_matmul(
    isa: str, raw: Bytes, rows: int, columns: int, format: str, x: Floats, threads: int, seconds: float
) -> tuple[int, list[float]]: ...
def read_bandwidth(bytes: int, threads: int, seconds: float) -> float: ...
def multiply_add_peak(isa: str, integers: bool, threads: int, seconds: float) -> float: ...
def attention(
    isa: str,
    threads: int,
    kv_type: str,
    heads: int,
    kv_heads: int,
    window: int,
    scale: float,
    q: Floats,
    k: Floats,
    v: Floats,
    table: list[int],
    steps: list[int],
) -> Floats: ...
def dequantize(raw: Bytes, rows: int, columns: int, format: str) -> Floats: ...

class Sampler:
    def __init__(
        self,
        *,
        temperature: float,
        top_k: int,
        top_p: float,
        min_p: float,
        typical_p: float,
        repetition_penalty: float,
        frequency_penalty: float,
        presence_penalty: float,
        seed: int,
        logit_bias: list[tuple[int, float]],
        bad_words: list[list[int]],
        min_tokens: int,
        stop_ids: list[int],
        allowed_ids: list[int],
        watermark: bool,
        prompt: list[int],
    ) -> None: ...
    def sample(
        self, isa: str, logits: Floats, logprobs: int, mask: Words | None = None
    ) -> tuple[int, bool, float, int, list[tuple[int, float]]]: ...

class Gate:
    def __init__(self) -> None: ...
    def open(self) -> None: ...

class Model:
    def __init__(self, isa: str, threads: int, kv_type: str, max_tokens: int, max_rows: int, pages: int) -> None: ...
    isa: str
    weight_bytes: int
    buffer_bytes: int
    kv_bytes: int
    def value(self, width: int, floats: bool, quantized: bool, local: bool) -> int: ...
    def matrix(self, rows: int, columns: int, format: str) -> int: ...
    def pack(self, weights: Sequence[tuple[int, int, Bytes, str]]) -> None: ...
    def read(self, file: int, weights: Sequence[tuple[int, int]]) -> None: ...
    def rope(self, dim: int, interleaved: bool, scale: float, inv_freq: Sequence[float]) -> int: ...
    def embed(self, raw: Bytes, rows: int, columns: int, format: str, out: int, scale: float) -> None: ...
    def norm(
        self,
        x: int,
        out: int,
        weight: Floats,
        bias: Floats | None,
        layer: bool,
        eps: float,
        add: bool,
        rows_only: bool,
    ) -> None: ...
    def linear(self, x: int, parts: list[Part], rows_only: bool) -> None: ...
    def gated(
        self, x: int, gate: int, up: int, gate_bias: Floats | None, up_bias: Floats | None, act: str, out: int
    ) -> None: ...
    def attention(
        self,
        q: int,
        k: int,
        v: int,
        out: int,
        heads: int,
        kv_heads: int,
        dim: int,
        scale: float,
        rope: int,
        window: int,
        q_norm: Floats | None,
        k_norm: Floats | None,
        norm_eps: float,
        k_center: Floats | None,
    ) -> None: ...
    def select(self, values: list[int]) -> None: ...
    def element(self, kind: str, a: int, b: int, out: int, act: str, rows_only: bool) -> None: ...
    def finish(self, logits: int, vocab: int) -> None: ...
    def step(
        self,
        samplers: Sequence[Sampler | None],
        tokens: Ints,
        positions: Ints,
        query_start: Ints,
        context_len: Ints,
        block_tables: Ints,
        rows: Ints,
        targets: Ints,
        logprobs: Ints,
        drafts: Ints,
        hidden: Ints,
    ) -> tuple[Ints, Bytes, Floats, Ints, list[list[tuple[int, float]]], Floats | None, list[int]]: ...
    def step_masked(
        self,
        samplers: Sequence[Sampler | None],
        tokens: Ints,
        positions: Ints,
        query_start: Ints,
        context_len: Ints,
        block_tables: Ints,
        rows: Ints,
        targets: Ints,
        logprobs: Ints,
        drafts: Ints,
        hidden: Ints,
        *,
        index: Ints,
        bits: Words,
        ready: Gate,
    ) -> tuple[Ints, Bytes, Floats, Ints, list[list[tuple[int, float]]], Floats | None, list[int]]: ...
    def logits(
        self,
        tokens: Ints,
        positions: Ints,
        query_start: Ints,
        context_len: Ints,
        block_tables: Ints,
        rows: Ints,
        targets: Ints,
        logprobs: Ints,
        drafts: Ints,
    ) -> Floats: ...
