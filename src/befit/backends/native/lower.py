"""From a `Program` to the native model's fused ops.

The program's ops are taken in order. Where a value has one reader the two ops are fused: matrices over one input run
as one piece of work, `act(gate) * up` and `act(x)` are applied as rows are finished, and a result that is only added to
the residual stream is added in place. A value is kept as float32, as int8 groups, or both, by what its readers need.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from befit.backends.native import _native
from befit.errors import UnsupportedModel
from befit.models.program import Act, Add, Attention, Embed, GatedAct, Linear, Logits, Norm, Op, Program, Rope
from befit.weights.tensor import F32, U8, DenseTensor, QuantTensor, Tensor

MatrixReader = Linear | Logits


class Lowering:
    """One pass over a program. After run() the model is ready; `tables` must be kept alive as long as the model."""

    def __init__(
        self,
        model: _native.Model,
        program: Program,
        tensors: Mapping[str, Tensor],
        *,
        on_progress: Callable[[int, int], None] | None = None,
        release: Callable[[Tensor], None] | None = None,
    ) -> None:
        self.model = model
        self.program = program
        self.ops = program.ops
        self.tensors = tensors
        self.on_progress = on_progress
        self.release = release
        self.tables: list[U8] = []
        self._lookups = {op.weight for op in program.ops if isinstance(op, Embed)}
        self._readers = [_readers(program.ops, i) for i in range(len(program.ops))]
        self._fused = [False] * len(program.ops)
        self._widths = self._all_widths()
        self._sharing: dict[tuple[str, int, bool], list[int]] = {}
        for i, op in enumerate(self.ops):
            self._sharing.setdefault((_out(op), self._widths[i], self._rows_only(i)), []).append(i)
        self._values: dict[tuple[str, int, bool], int] = {}
        self._current: dict[str, int] = {}
        self._matrices: dict[str, int] = {}
        self._ropes: dict[Rope, int] = {}
        self._done = 0
        self._total = sum(tensors[name].nbytes for name in program.weight_names())

    def run(self) -> None:
        """Lower every op, then allocate the model's buffers."""
        for i, op in enumerate(self.ops):
            if not self._fused[i]:
                self._lower(i, op)

    def _lower(self, i: int, op: Op) -> None:
        match op:
            case Embed():
                self._embed(i, op)
            case Norm():
                self._norm(i, op)
            case Linear():
                self._linear(i, op)
            case Attention():
                self._attention(i, op)
            case GatedAct():
                self._element(i, "gated", op.gate, op.up, op.fn)
            case Act():
                self._element(i, "act", op.x, None, op.fn)
            case Add():
                self._element(i, "add", op.a, op.b)
            case Logits():
                self._logits(op)

    # Ops

    def _embed(self, i: int, op: Embed) -> None:
        tensor = self.tensors[op.weight]
        raw, name = _raw(tensor)
        self.tables.append(raw)
        self._progress(tensor)
        out = self._write(i)
        self.model.embed(raw, tensor.shape[0], tensor.shape[1], name, out, op.scale)
        if self._int8(i):
            self.model.element("quantize", out, -1, -1, "silu", False)

    def _norm(self, i: int, op: Norm) -> None:
        if self._widths[i] % 32:
            raise UnsupportedModel(
                f"{op.weight} has width {self._widths[i]}; the native backend needs a multiple of 32."
            )
        x = self._read(op.x)
        target = self._residual(i)
        self.model.norm(
            x,
            self._write(i) if target is None else target,
            self._vector(op.weight),
            self._vector(op.bias) if op.bias else None,
            op.kind == "layer",
            op.eps,
            target is not None,
            self._rows_only(i),
        )

    def _linear(self, i: int, op: Linear) -> None:
        if self._gated(i, op):
            return
        x = self._read(op.x)
        parts: list[_native.Part] = []
        for j in self._siblings(i):
            sibling = self.ops[j]
            assert isinstance(sibling, Linear)
            parts.append(self._part(j, sibling))
            self._fused[j] = True
        self.model.linear(x, parts, False)

    def _part(self, i: int, op: Linear) -> _native.Part:
        bias = self._vector(op.bias) if op.bias else None
        matrix = self._matrix(op.weight)
        target = self._residual(i)
        if target is not None:
            return (matrix, target, bias, True, None)
        reader = self._only_reader(i)
        if reader is not None and isinstance(following := self.ops[reader], Act):
            self._fused[reader] = True
            return (matrix, self._write(i, fused=reader), bias, False, following.fn)
        return (matrix, self._write(i), bias, False, None)

    def _attention(self, i: int, op: Attention) -> None:
        self.model.attention(
            self._read(op.q),
            self._read(op.k),
            self._read(op.v),
            self._write(i),
            op.n_heads,
            op.n_kv_heads,
            op.head_dim,
            op.scale,
            self._rope(op.rope),
            op.window or 0,
            self._vector(op.q_norm) if op.q_norm else None,
            self._vector(op.k_norm) if op.k_norm else None,
            op.norm_eps,
        )

    def _element(self, i: int, kind: str, a: str, b: str | None, act: str = "silu") -> None:
        left, right = self._read(a), self._read(b) if b else -1
        self.model.element(kind, left, right, self._write(i), act, False)

    def _logits(self, op: Logits) -> None:
        x = self._read(op.x)
        if x not in [value for (_, _, rows_only), value in self._values.items() if rows_only]:
            raise UnsupportedModel(f"The head {op.weight} must read a norm of its own; {op.x!r} is none.")
        out = self.model.value(self.program.vocab_size, True, False, False)
        self.model.linear(x, [(self._matrix(op.weight), out, None, False, None)], True)
        self.model.finish(out, self.program.vocab_size)

    # Fusing

    def _gated(self, i: int, gate: Linear) -> bool:
        """Emit gate, up and their GatedAct as one op when op i starts such a trio."""
        if not self._starts_gate(i):
            return False
        up, act = self.ops[i + 1], self.ops[i + 2]
        assert isinstance(up, Linear)
        assert isinstance(act, GatedAct)
        self.model.gated(
            self._read(gate.x),
            self._matrix(gate.weight),
            self._matrix(up.weight),
            self._vector(gate.bias) if gate.bias else None,
            self._vector(up.bias) if up.bias else None,
            act.fn,
            self._write(i + 2),
        )
        self._fused[i + 1] = self._fused[i + 2] = True
        return True

    def _starts_gate(self, i: int) -> bool:
        gate, up, act = (*self.ops[i : i + 3], None, None)[:3]
        return (
            isinstance(gate, Linear)
            and isinstance(up, Linear)
            and isinstance(act, GatedAct)
            and gate.x == up.x
            and (act.gate, act.up) == (gate.out, up.out)
            and self._only_reader(i) == self._only_reader(i + 1) == i + 2
        )

    def _siblings(self, i: int) -> list[int]:
        """Op i and the Linears that directly follow it over the same input, up to one that starts a gated trio."""
        first = self.ops[i]
        assert isinstance(first, Linear)
        end = i + 1
        while end < len(self.ops):
            op = self.ops[end]
            if (
                not isinstance(op, Linear)
                or op.x != first.x
                or _out(self.ops[end - 1]) == op.x
                or self._starts_gate(end)
            ):
                break
            end += 1
        return list(range(i, end))

    def _residual(self, i: int) -> int | None:
        """The residual value that op i's result is only added to, directly after it, if there is one."""
        reader = self._only_reader(i)
        if reader != i + 1 or not isinstance(add := self.ops[reader], Add):
            return None
        out = _out(self.ops[i])
        if add.a == add.b or add.out != (add.b if add.a == out else add.a) or self._int8(reader):
            return None
        self._fused[reader] = True
        return self._read(add.out)

    def _int8(self, i: int) -> bool:
        """Whether the buffer of op i's result also has an int8 form."""
        return self._needs((_out(self.ops[i]), self._widths[i], self._rows_only(i)))[1]

    def _only_reader(self, i: int) -> int | None:
        readers = self._readers[i]
        return readers[0] if len(readers) == 1 else None

    # Values and weights

    def _read(self, name: str) -> int:
        """The native value that holds `name` at this point of the program."""
        if name not in self._current:
            raise UnsupportedModel(f"The program reads {name!r} before any op writes it.")
        return self._current[name]

    def _write(self, i: int, *, fused: int | None = None) -> int:
        """The native value for the result of op i (of op `fused`, when i's result only passes through it).

        Results of one name, width and kind share a buffer: their lives do not overlap.
        """
        i = i if fused is None else fused
        name = _out(self.ops[i])
        key = (name, self._widths[i], self._rows_only(i))
        if key not in self._values:
            self._values[key] = self.model.value(self._widths[i], *self._needs(key))
        self._current[name] = self._values[key]
        return self._values[key]

    def _needs(self, key: tuple[str, int, bool]) -> tuple[bool, bool, bool]:
        """(float32 needed, int8 needed, may every thread compute its own copy) over all results that share a buffer."""
        floats = quantized = False
        local = True
        for i in self._sharing[key]:
            op = self.ops[i]
            local = local and isinstance(op, Norm)
            floats |= isinstance(op, Embed | Add)
            for r in self._readers[i]:
                reader = self.ops[r]
                if isinstance(reader, MatrixReader):
                    quant = isinstance(self.tensors[reader.weight], QuantTensor)
                    quantized |= quant
                    floats |= not quant
                else:
                    floats, local = True, False
        return floats, quantized, local

    def _rows_only(self, i: int) -> bool:
        """Whether op i is the norm that only the head reads: computed for the rows that need logits."""
        return isinstance(self.ops[i], Norm) and [type(self.ops[r]) for r in self._readers[i]] == [Logits]

    def _all_widths(self) -> list[int]:
        """The width of each op's result."""
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
            known[_out(op)] = width
            widths.append(width)
        return widths

    def _matrix(self, name: str) -> int:
        if name not in self._matrices:
            tensor = self.tensors[name]
            raw, fmt = _raw(tensor)
            self._matrices[name] = self.model.matrix(raw, tensor.shape[0], tensor.shape[1], fmt)
            self._progress(tensor)
            if self.release and name not in self._lookups:
                self.release(tensor)
        return self._matrices[name]

    def _vector(self, name: str) -> F32:
        tensor = self.tensors[name]
        self._progress(tensor)
        return np.ascontiguousarray(tensor.dequantize().reshape(-1))

    def _rope(self, rope: Rope | None) -> int:
        if rope is None:
            return -1
        if rope not in self._ropes:
            self._ropes[rope] = self.model.rope(rope.dim, rope.interleaved, rope.scale, list(rope.inv_freq))
        return self._ropes[rope]

    def _progress(self, tensor: Tensor) -> None:
        self._done = min(self._done + tensor.nbytes, self._total)
        if self.on_progress:
            self.on_progress(self._done, self._total)


def _out(op: Op) -> str:
    return "logits" if isinstance(op, Logits) else op.out


def _readers(ops: tuple[Op, ...], i: int) -> list[int]:
    """The ops that read what op i writes, up to the op that writes the name anew (which may read it too)."""
    out = _out(ops[i])
    readers = []
    for j in range(i + 1, len(ops)):
        op = ops[j]
        if out in [getattr(op, field, None) for field in ("x", "a", "b", "q", "k", "v", "gate", "up")]:
            readers.append(j)
        if _out(op) == out:
            break
    return readers


def _raw(tensor: Tensor) -> tuple[U8, str]:
    """A tensor's bytes as they lie in the file, and the name of their format."""
    if isinstance(tensor, QuantTensor):
        return tensor.raw.reshape(-1), tensor.format.name
    assert isinstance(tensor, DenseTensor)
    return np.ascontiguousarray(tensor.data).view(np.uint8).reshape(-1), tensor.dtype
