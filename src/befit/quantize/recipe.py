"""Which format each tensor of a model gets, and the tensors in these formats, made when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from befit.errors import ConfigError, CorruptFile
from befit.models.program import Embed, Linear, Logits, Program
from befit.quantize.activations import SLAB, held_in_memory, rows_of
from befit.quantize.awq import Scales
from befit.quantize.encode import encode_rows
from befit.weights.blocks import FORMATS, Q4_1, Q4_K, Q6_K, Q8_0
from befit.weights.tensor import F32, U8, DenseTensor, MadeTensor, QuantFormat, Tensor

Target: TypeAlias = Literal["w8", "w4", "w4-awq"]
TARGETS: tuple[Target, ...] = get_args(Target)
BLOCKS = ("auto", "q4_0", "q4_1", "q4_k")
"""Formats of 4-bit matrices. auto: Q4_K where rows are whole blocks of 256, else Q4_1."""


def formats(
    program: Program, shapes: Mapping[str, tuple[int, ...]], to: Target, blocks: str = "auto"
) -> dict[str, QuantFormat]:
    """The format of each matrix; one that is left out has rows that no format takes, and stays dense.

    w8: Q8_0. w4: `blocks` for the layers and for an embedding that is no head; the head, which errors reach the output
    from directly, Q6_K or, where rows are no whole blocks of 256, Q8_0. Raises ConfigError for an unknown `blocks`.
    """
    if blocks not in BLOCKS:
        raise ConfigError(f"blocks is {blocks!r}; choose {', '.join(BLOCKS)}.")
    heads = {op.weight for op in program.ops if isinstance(op, Logits)}
    matrices = dict.fromkeys(op.weight for op in program.ops if isinstance(op, Embed | Linear | Logits))
    found = {}
    for name in matrices:
        if to == "w8":
            wanted = [Q8_0]
        elif name in heads:
            wanted = [Q6_K, Q8_0]
        else:
            wanted = [Q4_K if blocks == "auto" else FORMATS[blocks], Q4_1, Q8_0]
        fitting = [fmt for fmt in wanted if shapes[name][1] % fmt.block == 0]
        if fitting:
            found[name] = fitting[0]
    return found


class Quantised(Mapping[str, Tensor]):
    """The tensors of a model in the formats of a recipe: matrices encoded when they are read, all else as float32.

    Matrices without a format become float16, or stay as they are where they take no more than that. order: which rows
    of the source come one after the other, of tensors whose rows change places.
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        formats: Mapping[str, QuantFormat],
        scales: Scales | None = None,
        *,
        order: Mapping[str, npt.NDArray[np.int64]] | None = None,
        threads: int = 1,
        release: Callable[[Tensor], None] = lambda tensor: None,
    ) -> None:
        self.sources = tensors
        self.formats = formats
        self.scales = scales or Scales()
        self.order = order or {}
        self.threads = threads
        self.release = release

    def __getitem__(self, name: str) -> Tensor:
        source = self.sources[name]
        fmt = self.formats.get(name)
        if fmt is not None:
            return MadeTensor(name, (source.shape[0], source.shape[1]), fmt, lambda: self._encoded(source, fmt))
        if len(source.shape) == 1:
            return DenseTensor(name, source.shape, "f32", np.ascontiguousarray(self._values(source)))
        changed = name in self.scales.columns or name in self.scales.rows or name in self.order
        if isinstance(source, DenseTensor) and source.dtype != "f32" and not changed:
            return source
        return DenseTensor(name, source.shape, "f16", self._values(source).astype(np.float16))

    def __iter__(self) -> Iterator[str]:
        return iter(self.sources)

    def __len__(self) -> int:
        return len(self.sources)

    def _values(self, source: Tensor, rows: slice = slice(None)) -> F32:
        """Some rows as floats, in their new order and scaled."""
        if source.name in self.order:
            values = rows_of(source, self.order[source.name][rows])
        else:
            values = source.dequantize(rows.start, rows.stop)
        return self.scales.apply(source.name, values, rows)

    def _encoded(self, source: Tensor, fmt: QuantFormat) -> U8:
        rows, columns = source.shape[0], source.shape[1]
        held = held_in_memory(source)
        out = np.empty((rows, columns // fmt.block * fmt.block_bytes), np.uint8)
        step = max(1, SLAB // columns)
        importance = self.scales.importance.get(source.name)
        for start in range(0, rows, step):
            part = self._values(held, slice(start, start + step))
            try:
                out[start : start + step] = encode_rows(fmt, part, importance, threads=self.threads)
            except ValueError as error:
                raise CorruptFile(
                    f"tensor {source.name}, rows {start} to {start + len(part) - 1}: {error}; fetch the model again."
                ) from error
            self.release(source)  # a vocabulary's pages would add up to more than everything else
        return out
