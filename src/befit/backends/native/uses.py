"""What a program does with its values: who reads a result, how wide it is, and in which forms it must be kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from befit.models.program import Act, Add, Attention, Embed, GatedAct, Linear, Logits, Norm, Op
from befit.weights.tensor import PackedTensor, QuantTensor, Weight

_READS = ("x", "a", "b", "q", "k", "v", "gate", "up")


class Buffer(NamedTuple):
    """Results of one name, width and kind share memory: their lives do not overlap.

    rows_only: computed only where logits or hidden states are asked for.
    """

    name: str
    width: int
    rows_only: bool


class Forms(NamedTuple):
    """How a buffer is kept: as float32, as integers, and whether every thread may compute its own copy.

    The integers of one token need its largest value first. A norm has the whole token at hand; other ops write it in
    pieces, as floats, and its integers are made afterwards.
    """

    floats: bool
    integers: bool
    local: bool


class Uses:
    """The readers, widths and buffers of a program's results, by the index of the op that writes them."""

    def __init__(self, ops: Sequence[Op], tensors: Mapping[str, Weight]) -> None:
        self.ops = ops
        self.tensors = tensors
        self.readers = [_readers(ops, i) for i in range(len(ops))]
        self.widths = self._widths()
        self._forms: dict[Buffer, Forms] = {}
        self._sharing: dict[Buffer, list[int]] = {}
        for i in range(len(ops)):
            self._sharing.setdefault(self.buffer(i), []).append(i)

    def only_reader(self, i: int) -> int | None:
        """The op that reads op i's result, when there is exactly one."""
        return self.readers[i][0] if len(self.readers[i]) == 1 else None

    def rows_only(self, i: int) -> bool:
        """Whether op i is the norm that only the head reads."""
        return isinstance(self.ops[i], Norm) and [type(self.ops[r]) for r in self.readers[i]] == [Logits]

    def live_after(self, i: int) -> set[str]:
        """The names that ops after op i read and that are written by then."""
        live: set[str] = set()
        written: set[str] = set()
        for op in self.ops[i + 1 :]:
            live.update({getattr(op, field) for field in _READS if getattr(op, field, None) is not None} - written)
            written.add(out_of(op))
        return live

    def buffer(self, i: int) -> Buffer:
        """Where op i's result lies."""
        return Buffer(out_of(self.ops[i]), self.widths[i], self.rows_only(i))

    def forms(self, buffer: Buffer) -> Forms:
        """What the readers of all results in `buffer` need between them."""
        if buffer not in self._forms:
            self._forms[buffer] = self._needed(buffer)
        return self._forms[buffer]

    def _needed(self, buffer: Buffer) -> Forms:
        floats = integers = False
        local = True
        for i in self._sharing[buffer]:
            op = self.ops[i]
            local = local and isinstance(op, Norm)
            floats |= isinstance(op, Embed | Add) or buffer.rows_only  # hidden states are read from there
            for r in self.readers[i]:
                reader = self.ops[r]
                if isinstance(reader, Linear | Logits):
                    quantised = _is_quantised(self.tensors[reader.weight])
                    integers |= quantised
                    floats |= not quantised
                else:
                    floats, local = True, False
        return Forms(floats or not local, integers, local)

    def _widths(self) -> list[int]:
        known: dict[str, int] = {}
        widths = []
        for op in self.ops:
            match op:
                case Embed(weight=weight):
                    width = self.tensors[weight].shape[1]
                case Linear(weight=weight) | Norm(weight=weight) | Logits(weight=weight):
                    width = self.tensors[weight].shape[0]
                case Attention():
                    width = op.n_heads * op.head_dim
                case GatedAct():
                    width = known[op.gate]
                case Act():
                    width = known[op.x]
                case Add():
                    width = known[op.a]
            known[out_of(op)] = width
            widths.append(width)
        return widths


def out_of(op: Op) -> str:
    """The name of what an op writes."""
    return "logits" if isinstance(op, Logits) else op.out


def _is_quantised(weight: Weight) -> bool:
    return weight.quantised if isinstance(weight, PackedTensor) else isinstance(weight, QuantTensor)


def _readers(ops: Sequence[Op], i: int) -> list[int]:
    """The ops that read what op i writes, up to the op that writes the name anew (which may read it too)."""
    out = out_of(ops[i])
    readers = []
    for j in range(i + 1, len(ops)):
        if out in [getattr(ops[j], field, None) for field in _READS]:
            readers.append(j)
        if out_of(ops[j]) == out:
            break
    return readers
