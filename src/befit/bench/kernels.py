"""Each matrix kernel against what this machine can do at best, and against its twin in NumPy.

A product of a [rows, 2048] matrix with some tokens cannot be faster than reading the packed weights once at the
bandwidth that a plain read of as much memory reaches, nor than its multiply-adds at the rate that a loop of nothing
else reaches. The larger of the two times is the limit; a kernel's share is limit / measured.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

from befit.backends.native import _native
from befit.bench.random_weights import random_matrix
from befit.weights.blocks import FORMATS
from befit.weights.tensor import DenseTensor, QuantTensor, Tensor

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

DENSE = ("f32", "f16", "bf16")
ALL_FORMATS = (*FORMATS, *DENSE)
ALL_TOKENS = (1, 2, 4, 8, 16, 32, 64, 512)
COLUMNS = 2048
SECONDS = 0.1
"""How long one kernel is timed, and one limit."""
_ROWS_MADE = 256  # different random rows; larger matrices repeat them
_TWIN_ROWS = 64
_AMX_TOKENS = 5  # kFewest of native/isa/amx.cpp


@dataclass(slots=True)
class Limits:
    """This machine's limits for `threads` threads: the best of what was measured each time that one was asked for."""

    threads: int
    seconds: float = SECONDS / 4
    _bandwidths: dict[int, float] = field(default_factory=dict)
    _peaks: dict[tuple[str, bool], float] = field(default_factory=dict)

    def bandwidth(self, size: int) -> float:
        """Bytes a second read from so many bytes of memory, to 64 KB."""
        key = math.ceil(size / (1 << 16)) << 16
        seen = _native.read_bandwidth(key, self.threads, self.seconds)
        self._bandwidths[key] = max(seen, self._bandwidths.get(key, 0.0))
        return self._bandwidths[key]

    def peak(self, isa: str, integers: bool) -> float:
        """Multiply-adds a second: of 8-bit integers, or of float32."""
        key = (isa, integers)
        seen = _native.multiply_add_peak(isa, integers, self.threads, self.seconds)
        self._peaks[key] = max(seen, self._peaks.get(key, 0.0))
        return self._peaks[key]


def measure(
    isa: str, kind: str, tokens: int, *, limits: Limits, megabytes: float, seconds: float = SECONDS
) -> dict[str, Any]:
    """One kernel. Products of bytes count one by one, see `products_of_bytes`."""
    integers = kind in FORMATS
    passes = products_of_bytes(isa, kind, tokens) if integers else 1
    peak = limits.peak(isa, integers)
    rng = np.random.default_rng(1)
    made = random_matrix(rng, kind, _ROWS_MADE, COLUMNS, kind)
    x = rng.standard_normal((tokens, COLUMNS)).astype(np.float32)
    row_bytes = made.nbytes / _ROWS_MADE
    # Large enough to come from memory; with many tokens, no larger than a twentieth of a second's work.
    most = 0.05 * peak / (COLUMNS * tokens * passes)
    repeats = max(1, round(min(megabytes * 1e6 / row_bytes, most) / _ROWS_MADE))
    rows = repeats * _ROWS_MADE
    raw = np.tile(_raw(made), repeats)
    packed, times = _native.time_matmul(isa, raw, rows, COLUMNS, kind, x, limits.threads, seconds)
    time = median(times)
    limits.bandwidth(packed)
    return {
        "isa": isa,
        "format": kind,
        "tokens": tokens,
        "passes": passes,
        "rows": rows,
        "columns": COLUMNS,
        "weight_bytes": packed,
        "time_us": 1e6 * time,
        "best_us": 1e6 * min(times),
        "gb_s": packed / time / 1e9,
        "gmac_s": rows * COLUMNS * tokens / time / 1e9,
        "error": twin_error(isa, kind, made, x),
    }


def products_of_bytes(isa: str, kind: str, tokens: int) -> int:
    """Products of bytes that a quantised weight and an activation of two bytes take. AMX widens weights of up to 6
    bits, with their scales, to two bytes as well; it works on five tokens or more."""
    return 4 if isa == "amx" and tokens >= _AMX_TOKENS and FORMATS[kind].bits <= 6 else 2


def judge(runs: Sequence[dict[str, Any]], limits: Limits) -> None:
    """Add each kernel's limit and its share of it, once the limits have been measured as often as they will be."""
    for run in runs:
        reading = run["weight_bytes"] / limits.bandwidth(run["weight_bytes"])
        products = run["rows"] * run["columns"] * run["tokens"] * run["passes"]
        computing = products / limits.peak(run["isa"], run["format"] in FORMATS)
        run["limit"] = "memory" if reading > computing else "arithmetic"
        run["limit_us"] = 1e6 * max(reading, computing)
        run["share"] = run["limit_us"] / run["time_us"]


def twin_error(isa: str, kind: str, weight: Tensor, x: F32) -> float:
    """Largest difference between the kernel's and its NumPy twin's result, relative to the largest result."""
    raw = _raw(weight).reshape(weight.shape[0], -1)[:_TWIN_ROWS].reshape(-1)
    got = _native.matmul(isa, raw, _TWIN_ROWS, weight.shape[1], kind, x)
    expected = twin(weight, x, _TWIN_ROWS)
    return float(np.abs(got - expected).max() / np.abs(expected).max())


def twin(weight: Tensor, x: F32, rows: int | None = None) -> F64:
    """x [T, columns] times the first rows of a matrix, as the kernels see both: [T, rows] float64, not rounded."""
    if isinstance(weight, DenseTensor):
        return x.astype(np.float64) @ weight.dequantize(0, rows).astype(np.float64).T
    d, q = activation_integers(x)
    unit, w = weight_integers(weight, rows)
    product: F64 = (q.astype(np.float64) @ w.T) * unit * d[:, None]
    return product


def activation_integers(x: F32) -> tuple[F64, I64]:
    """x [T, columns] as d [T] and 16-bit integers q [T, columns], x = d * q: one scale a token."""
    most = np.float32(32639)
    peak = np.abs(x).max(-1)
    q = np.rint(x * (most / peak)[:, None])
    return (peak / most).astype(np.float64), q.astype(np.int64)


def weight_integers(weight: QuantTensor, rows: int | None = None) -> tuple[F64, F64]:
    """Units [rows] and weights [rows, columns] in those units.

    With up to 6 bits these are integers of 16 bits, step * q - offset, where a group's step and offset are its scale
    and minimum rounded to its row's unit. With 8 bits the unit is 1 and nothing is rounded.
    """
    u = weight.unpack(0, rows)
    s, m, q = u.s.astype(np.float64), u.m.astype(np.float64), u.q.reshape(*u.s.shape, -1).astype(np.float64)
    if weight.format.bits == 8:
        unit = np.ones(len(s))
    else:
        most = 2**weight.format.bits - 1
        unit = np.maximum(np.abs(m), np.abs(most * s - m)).max(1) / (32766 - (most + 1) / 2)
        s = np.rint(s / unit[:, None])
        m = s * weight.format.zero if weight.format.zero is not None else np.rint(m / unit[:, None])
        unit = unit.astype(np.float32).astype(np.float64)
    return unit, (s[:, :, None] * q - m[:, :, None]).reshape(len(s), -1)


def _raw(tensor: Tensor) -> npt.NDArray[np.uint8]:
    data = tensor.data if hasattr(tensor, "data") else tensor.raw
    return np.ascontiguousarray(data).view(np.uint8).reshape(-1)


def tables(runs: Sequence[dict[str, Any]]) -> Iterator[tuple[str, list[list[Any]]]]:
    """For each instruction set its name and a table: a row a format, the share of the limit by number of tokens."""
    tokens = list(dict.fromkeys(run["tokens"] for run in runs))
    few, many = tokens[0], tokens[-1]
    for isa in dict.fromkeys(run["isa"] for run in runs):
        rows: list[list[Any]] = [["format", *(f"{n}" for n in tokens), f"GB/s at {few}", f"GMAC/s at {many}", "error"]]
        for kind in dict.fromkeys(run["format"] for run in runs if run["isa"] == isa):
            own = {run["tokens"]: run for run in runs if run["isa"] == isa and run["format"] == kind}
            shares = [f"{own[n]['share']:.0%}{'' if own[n]['limit'] == 'memory' else '*'}" for n in tokens]
            error = max(run["error"] for run in own.values())
            rows.append([kind, *shares, own[few]["gb_s"], own[many]["gmac_s"], f"{error:.1e}"])
        yield isa, rows
