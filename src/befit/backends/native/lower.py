"""From a `Program` to the native model's fused ops.

The program's ops are taken in order. Where a value has one reader the two ops are fused: matrices over one input run
as one piece of work, `act(gate) * up` and `act(x)` are applied as rows are finished, and a result that is only added to
the residual stream is added in place. A value is kept as float32, as integers, or both, by what its readers need.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import groupby

import numpy as np

from befit.backends.keys import bias_of_keys, key_center
from befit.backends.native import _native
from befit.backends.native.uses import Buffer, Uses, out_of
from befit.errors import CorruptFile, UnsupportedModel
from befit.models.program import Act, Add, Attention, Embed, GatedAct, Linear, Logits, Norm, Op, Program, Rope
from befit.weights.tensor import F32, U8, DenseTensor, PackedTensor, QuantTensor, Tensor, Weight

_BATCH_BYTES = 16 << 20
"""Matrices are packed in batches of so many bytes of the file: the GIL is wanted once a batch and not once a matrix,
and what the file's pages take of memory stays bounded. Larger matrices are packed in pieces."""
TILE_ROWS = 16
"""Rows of the kernels' tiles: see kernels.hpp."""


class Lowering:
    """One pass over a program. After run() the model is ready; `tables` must be kept alive as long as the model."""

    def __init__(
        self,
        model: _native.Model,
        program: Program,
        tensors: Mapping[str, Weight],
        *,
        center_keys: bool = False,
        on_progress: Callable[[int, int], None] | None = None,
        release: Callable[[Tensor], None] | None = None,
    ) -> None:
        self.model = model
        self.center_keys = center_keys
        self.program = program
        self.ops = program.ops
        self.tensors = tensors
        self.on_progress = on_progress
        self.release = release
        self.tables: list[U8] = []
        self._lookups = {op.weight for op in program.ops if isinstance(op, Embed)}
        self._uses = Uses(program.ops, tensors)
        self._fused = [False] * len(program.ops)
        self._values: dict[Buffer, int] = {}
        self._current: dict[str, int] = {}
        self._matrices: dict[str, int] = {}
        self._ropes: dict[Rope, int] = {}
        self._unpacked: list[tuple[int, Tensor]] = []
        self._packed: list[tuple[int, PackedTensor]] = []
        self._done = 0
        self._total = sum(tensors[name].nbytes for name in program.weight_names())

    def run(self) -> None:
        """Lower every op, then allocate the model's buffers."""
        for i, op in enumerate(self.ops):
            if not self._fused[i]:
                self._lower(i, op)
            self._quantize(i)
        self._pack()
        self._read_packed()

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
        tensor = _plain(self.tensors[op.weight])
        raw, name = _raw(tensor)
        self.tables.append(raw)
        self._progress(tensor.nbytes)
        self.model.embed(raw, tensor.shape[0], tensor.shape[1], name, self._write(i), op.scale)

    def _norm(self, i: int, op: Norm) -> None:
        if self._uses.widths[i] % 32:
            raise UnsupportedModel(
                f"{op.weight} has width {self._uses.widths[i]}; the native backend needs a multiple of 32."
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
            self._uses.rows_only(i),
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
        if self._uses.only_reader(i) == i + 1 and isinstance(following := self.ops[i + 1], Act):
            self._fused[i + 1] = True
            return (matrix, self._write(i + 1), bias, False, following.fn)
        return (matrix, self._write(i), bias, False, None)

    def _attention(self, i: int, op: Attention) -> None:
        if op.head_dim % 32 or op.head_dim > 512 or op.n_heads % op.n_kv_heads:
            raise UnsupportedModel(
                f"Layer {op.layer} has {op.n_heads} heads of size {op.head_dim} over {op.n_kv_heads} KV heads; the "
                "native backend needs a size that is a multiple of 32, at most 512, and whole groups of heads."
            )
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
            self._center_of_keys(i, op) if self.center_keys else None,
        )
        if not any(isinstance(later, Attention) for later in self.ops[i + 1 :]):
            self._select(i)

    def _select(self, i: int) -> None:
        """Behind op i, the last attention, only the tokens whose logits are wanted are computed."""
        values = {self._current[name] for name in self._uses.live_after(i)}
        plain = {value for buffer, value in self._values.items() if self._uses.forms(buffer).floats}
        if values <= plain:
            self.model.select(sorted(values))

    def _center_of_keys(self, i: int, op: Attention) -> F32 | None:
        """What the keys of op i have in common, if they come from a matrix with a bias."""
        bias = bias_of_keys(self.ops, i)
        return key_center(op, self._vector(bias) if bias else None)

    def _element(self, i: int, kind: str, a: str, b: str | None, act: str = "silu") -> None:
        left, right = self._read(a), self._read(b) if b else -1
        self.model.element(kind, left, right, self._write(i), act, False)

    def _logits(self, op: Logits) -> None:
        x = self._read(op.x)
        if x not in [value for buffer, value in self._values.items() if buffer.rows_only]:
            raise UnsupportedModel(f"The head {op.weight} must read a norm of its own; {op.x!r} is none.")
        out = self._logits_value()
        self.model.linear(x, [(self._matrix(op.weight), out, None, False, None)], True)
        self.model.finish(out, self.program.vocab_size)

    def _logits_value(self) -> int:
        return self.model.value(self.program.vocab_size, True, False, False)

    def _quantize(self, i: int) -> None:
        """Make the integers of op i's result where a matrix reads them; a norm has made its own, see `Forms`."""
        forms = self._uses.forms(self._uses.buffer(i))
        if forms.integers and not forms.local:
            self.model.element("quantize", self._read(out_of(self.ops[i])), -1, -1, "silu", self._uses.rows_only(i))

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
            and self._uses.only_reader(i) == self._uses.only_reader(i + 1) == i + 2
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
                or out_of(self.ops[end - 1]) == op.x
                or self._starts_gate(end)
            ):
                break
            end += 1
        return list(range(i, end))

    def _residual(self, i: int) -> int | None:
        """The residual value that op i's result is only added to, directly after it, if there is one."""
        reader = self._uses.only_reader(i)
        if reader != i + 1 or not isinstance(add := self.ops[reader], Add):
            return None
        out = out_of(self.ops[i])
        if add.a == add.b or add.out != (add.b if add.a == out else add.a):
            return None
        if isinstance(op := self.ops[i], Linear) and op.x == add.out:  # rows would change while others are computed
            return None
        if self._uses.forms(self._uses.buffer(reader)).integers:  # which adding in place would not write
            return None
        self._fused[reader] = True
        return self._read(add.out)

    # Values and weights

    def _read(self, name: str) -> int:
        """The native value that holds `name` at this point of the program."""
        if name not in self._current:
            raise UnsupportedModel(f"The program reads {name!r} before any op writes it.")
        return self._current[name]

    def _write(self, i: int) -> int:
        """The native value for the result of op i."""
        buffer = self._uses.buffer(i)
        if buffer not in self._values:
            self._values[buffer] = self.model.value(buffer.width, *self._uses.forms(buffer))
        self._current[buffer.name] = self._values[buffer]
        return self._values[buffer]

    def _matrix(self, name: str) -> int:
        """The native matrix for a weight: room for now, filled by `_pack` or `_read_packed`."""
        if name not in self._matrices:
            weight = self.tensors[name]
            matrix = self.model.matrix(weight.shape[0], weight.shape[1], _format(weight))
            self._matrices[name] = matrix
            if isinstance(weight, PackedTensor):
                self._packed.append((matrix, weight))
            else:
                self._unpacked.append((matrix, weight))
                if sum(tensor.nbytes for _, tensor in self._unpacked) >= _BATCH_BYTES:
                    self._pack()
        return self._matrices[name]

    def _pack(self) -> None:
        """Pack the matrices that wait for it; of large ones, some rows at a time."""
        small = [(matrix, tensor) for matrix, tensor in self._unpacked if tensor.nbytes < _BATCH_BYTES]
        self.model.pack([(matrix, 0, *_raw(tensor)) for matrix, tensor in small])
        for _, tensor in small:
            self._packed_rows(tensor, tensor.nbytes)
        for matrix, tensor in self._unpacked:
            if tensor.nbytes < _BATCH_BYTES:
                continue
            raw, form = _raw(tensor)
            row = len(raw) // tensor.shape[0]
            step = max(1, _BATCH_BYTES // row // TILE_ROWS) * TILE_ROWS
            for first in range(0, tensor.shape[0], step):
                some = raw[first * row : (first + step) * row]
                self.model.pack([(matrix, first, some, form)])
                self._packed_rows(tensor, len(some))
        self._unpacked.clear()

    def _packed_rows(self, tensor: Tensor, nbytes: int) -> None:
        """So many bytes of a tensor were read, and the file's copy is not needed for now."""
        self._progress(nbytes)
        if self.release and tensor.name not in self._lookups:
            self.release(tensor)

    def _read_packed(self) -> None:
        """Read the matrices that were packed before."""
        for file, some in groupby(self._packed, key=lambda pair: pair[1].file):
            batch = list(some)
            try:
                self.model.read(file, [(matrix, weight.offset) for matrix, weight in batch])
            except RuntimeError as error:
                raise CorruptFile(f"Packed weights cannot be read: {error}. Build their folder anew.") from error
            for _, weight in batch:
                self._progress(weight.nbytes)

    def _vector(self, name: str) -> F32:
        tensor = _plain(self.tensors[name])
        self._progress(tensor.nbytes)
        return np.ascontiguousarray(tensor.dequantize().reshape(-1))

    def _rope(self, rope: Rope | None) -> int:
        if rope is None:
            return -1
        if rope not in self._ropes:
            self._ropes[rope] = self.model.rope(rope.dim, rope.interleaved, rope.scale, list(rope.inv_freq))
        return self._ropes[rope]

    def _progress(self, nbytes: int) -> None:
        self._done = min(self._done + nbytes, self._total)
        if self.on_progress:
            self.on_progress(self._done, self._total)


def _plain(weight: Weight) -> Tensor:
    """A weight that is looked at as it lies in the file: a vector or a lookup table."""
    if not isinstance(weight, PackedTensor):
        return weight
    if weight.table is None:
        raise UnsupportedModel(f"{weight.name} was packed as a matrix, and the program needs its plain rows.")
    return weight.table


def _format(weight: Weight) -> str:
    """The name of the format that a weight has in its model file."""
    if isinstance(weight, DenseTensor):
        return weight.dtype
    return weight.format if isinstance(weight, PackedTensor) else weight.format.name


def _raw(tensor: Tensor) -> tuple[U8, str]:
    """A tensor's bytes as they lie in the file, and the name of their format."""
    if isinstance(tensor, QuantTensor):
        return tensor.raw.reshape(-1), _format(tensor)
    return np.ascontiguousarray(tensor.data).view(np.uint8).reshape(-1), _format(tensor)
