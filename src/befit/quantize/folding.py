"""Where a scale of a matrix's input channels can be moved into what makes these channels, so that nothing changes.

If column j of a matrix is multiplied by s_j, its input must be divided by s_j. That costs nothing where the input comes
from an op that has weights per channel: a norm, or a matrix whose rows reach the channels one by one.

    norm → matrices          weight and bias of the norm are divided
    up → fn(gate) * up → matrix    rows and bias of up are divided
    v → attention → matrix   rows and bias of v are divided; query heads over one KV head share its factors

Source: Lin et al., "AWQ", arXiv 2306.00978, section 3.2. What is not of these forms is not scaled: the input of an
activation (`fn(x)` does not scale with x), weights that are used in two places (a head tied to the embedding).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from befit.backends.native.uses import Uses, out_of
from befit.models.program import Attention, GatedAct, Linear, Logits, Norm, Op, Program
from befit.weights.tensor import Weight


@dataclass(frozen=True, slots=True)
class Input:
    """A value that matrices multiply.

    writer: the op that makes it. weights: the matrices. vectors, matrices: what is divided, element by element or row
    by row, when the columns of `weights` are multiplied; both empty where nothing can be. heads, kv_heads, head_dim:
    of the attention that makes it, 0 otherwise.
    """

    writer: int
    weights: tuple[str, ...]
    vectors: tuple[str, ...] = ()
    matrices: tuple[str, ...] = ()
    heads: int = 0
    kv_heads: int = 0
    head_dim: int = 0

    @property
    def foldable(self) -> bool:
        """Whether the channels may be scaled."""
        return bool(self.vectors or self.matrices)


def inputs(program: Program, tensors: Mapping[str, Weight]) -> list[Input]:
    """Every value that a matrix of the program multiplies, in order."""
    ops, uses = program.ops, Uses(program.ops, tensors)
    named = Counter(
        name
        for op in ops
        for field in ("weight", "bias", "q_norm", "k_norm")
        if (name := getattr(op, field, None)) is not None
    )
    found = []
    for i, op in enumerate(ops):
        readers = [ops[r] for r in uses.readers[i]]
        multiplied = tuple(reader.weight for reader in readers if isinstance(reader, Linear | Logits))
        if not multiplied:
            continue
        only_linear = all(isinstance(reader, Linear) for reader in readers)
        free = only_linear and all(named[name] == 1 for name in multiplied)
        found.append(_folded(ops, uses, named, i, op, multiplied) if free else Input(i, multiplied))
    return found


def _folded(ops: tuple[Op, ...], uses: Uses, named: Counter[str], i: int, op: Op, weights: tuple[str, ...]) -> Input:
    """The input that op i writes, with what can be divided in exchange."""
    if isinstance(op, Norm):
        vectors = tuple(name for name in (op.weight, op.bias) if name)
        if all(named[name] == 1 for name in vectors):
            return Input(i, weights, vectors=vectors)
    if isinstance(op, GatedAct | Attention):
        source = op.up if isinstance(op, GatedAct) else op.v
        at = next(j for j in range(i - 1, -1, -1) if out_of(ops[j]) == source)
        writer = ops[at]
        if isinstance(writer, Linear) and uses.readers[at] == [i]:
            biases = (writer.bias,) if writer.bias else ()
            if all(named[name] == 1 for name in (writer.weight, *biases)) and writer.weight not in weights:
                shape = (op.n_heads, op.n_kv_heads, op.head_dim) if isinstance(op, Attention) else (0, 0, 0)
                return Input(i, weights, biases, (writer.weight,), *shape)
    return Input(i, weights)
