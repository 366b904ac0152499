"""Activation-aware scaling: channels that carry much get finer steps, by scaling weights up and what feeds them down.

Rounding errors of a matrix's column j reach its output in proportion to the values of channel j. So the columns of loud
channels are multiplied by s_j > 1 before rounding and the channels divided by it (see `folding`): the function stays
the same, and the rounding error of these columns shrinks. s = loudness^alpha, where loudness is the mean |x| of a
channel over a calibration text; alpha is searched on a grid for the least error of the outputs, alpha 0 included, which
scales nothing. Source: Lin et al., "AWQ: Activation-aware Weight Quantization", arXiv 2306.00978, equations 4 and 5.

What is learned on the way weighs the search of scales too (`encode_rows`, importance): the mean square of each channel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from befit.models.program import Program
from befit.quantize import activations
from befit.quantize.activations import Spread
from befit.quantize.encode import encode_rows
from befit.quantize.folding import Input, inputs
from befit.quantize.rtn import F32
from befit.weights.tensor import QuantFormat, QuantTensor, Tensor

ALPHAS = tuple(i / 10 for i in range(11))
JUDGED_TOKENS = 512
JUDGED_ROWS = 512
"""Tokens and rows, spread evenly over the calibration text and over a matrix, whose outputs judge an alpha."""

_ALL = slice(None)


@dataclass(slots=True)
class Scales:
    """What calibration found, by tensor name.

    columns: factors of a matrix's columns. rows: divisors of a matrix's rows, or of a vector. importance: how much an
    error in each column of the scaled matrix matters. alphas: by the first of the matrices that share an input.
    """

    columns: dict[str, F32] = field(default_factory=dict)
    rows: dict[str, F32] = field(default_factory=dict)
    importance: dict[str, F32] = field(default_factory=dict)
    alphas: dict[str, float] = field(default_factory=dict)

    def apply(self, name: str, values: F32, rows: slice = _ALL) -> F32:
        """Some rows of a matrix, or a whole vector, as they are to be rounded."""
        if name in self.columns:
            values = values * self.columns[name]
        if name in self.rows:
            divisors = self.rows[name][rows]
            values = values / (divisors[:, None] if values.ndim == 2 else divisors)
        return values


def calibrate(
    program: Program,
    tensors: Mapping[str, Tensor],
    formats: Mapping[str, QuantFormat],
    sequences: Sequence[Sequence[int]],
    *,
    threads: int = 1,
    release: Callable[[Tensor], None] = lambda tensor: None,
    on_matrix: Callable[[str], None] = lambda name: None,
) -> Scales:
    """Run the calibration `sequences` through the dense model and choose all scales.

    formats: of the matrices that will be rounded. on_matrix(name) is called as each is done.
    """
    scales = Scales()
    by_writer = {each.writer: each for each in inputs(program, tensors)}

    def visit(i: int, x: F32) -> None:
        if i not in by_writer:
            return
        each = by_writer[i]
        rounded = {name: formats[name] for name in each.weights if name in formats}
        if rounded:
            _decide(each, x, rounded, tensors, scales, spread)
        for name in each.weights:
            on_matrix(name)

    with ThreadPoolExecutor(threads, thread_name_prefix="befit-awq") as pool:
        spread = pool.map if threads > 1 else map
        activations.run(program, tensors, sequences, visit, spread=spread, release=release)
    return scales


def _decide(
    each: Input,
    x: F32,
    rounded: Mapping[str, QuantFormat],
    tensors: Mapping[str, Tensor],
    scales: Scales,
    spread: Spread,
) -> None:
    """Choose the scale of one input's channels and note what follows from it."""
    square = np.square(x, dtype=np.float32).mean(axis=0)
    s = np.ones(x.shape[1], np.float32)
    if each.foldable:
        loudness = shared(np.abs(x).mean(axis=0), each)
        judges = np.ascontiguousarray(x[_spread(len(x), JUDGED_TOKENS)].T)
        matrices = [
            (fmt, activations.rows_of(tensors[name], _spread(tensors[name].shape[0], JUDGED_ROWS)))
            for name, fmt in rounded.items()
        ]
        losses = list(spread(lambda alpha: loss(powers(loudness, alpha), matrices, judges, square), ALPHAS))
        alpha = ALPHAS[int(np.argmin(losses))]
        s = powers(loudness, alpha)
        scales.alphas[each.weights[0]] = alpha
        if alpha:
            scales.columns |= dict.fromkeys(each.weights, s)
            divisors = unshared(s, each)
            scales.rows |= dict.fromkeys((*each.vectors, *each.matrices), divisors)
    importance = square / (s * s)
    importance /= max(float(importance.mean()), 1e-30)
    # A channel that was silent in the calibration text may speak in another one.
    scales.importance |= dict.fromkeys(rounded, np.maximum(importance, np.float32(1e-4)))


def _spread(n: int, most: int) -> npt.NDArray[np.int64]:
    """At most `most` of the numbers below n, evenly spread."""
    return np.linspace(0, n - 1, min(n, most)).astype(np.int64)


def loss(s: F32, matrices: Sequence[tuple[QuantFormat, F32]], x: F32, square: F32) -> float:
    """The squared error of the outputs, summed over matrices, of rounding with scale s.

    matrices: format and rows [R, columns] each. x: [columns, tokens], with mean squares `square`.
    """
    total = 0.0
    for fmt, dense in matrices:
        raw = encode_rows(fmt, dense * s, square / (s * s), search=False)
        off = QuantTensor("", (len(dense), dense.shape[1]), fmt, raw).dequantize()
        off /= s
        off -= dense
        total += float(np.square(off @ x, dtype=np.float32).sum(dtype=np.float64))
    return total


def powers(loudness: F32, alpha: float) -> F32:
    """loudness^alpha, around 1: divided by the geometric mean of its largest and its smallest."""
    s = np.maximum(loudness, np.float32(1e-3) * loudness.mean() + np.float32(1e-30)) ** np.float32(alpha)
    scaled: F32 = s / np.sqrt(s.max() * s.min())
    return scaled


def shared(loudness: F32, each: Input) -> F32:
    """Loudness of attention's channels with what query heads of one KV head must share: their mean."""
    if not each.heads:
        return loudness
    group = each.heads // each.kv_heads
    by_head = loudness.reshape(each.kv_heads, group, each.head_dim).mean(axis=1, keepdims=True)
    return np.repeat(by_head, group, axis=1).reshape(-1)


def unshared(s: F32, each: Input) -> F32:
    """The other way round: of what is shared, one of each."""
    if not each.heads:
        return s
    return s.reshape(each.kv_heads, each.heads // each.kv_heads, each.head_dim)[:, 0].reshape(-1)
