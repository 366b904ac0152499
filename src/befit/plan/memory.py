"""What a model takes: weights by class, KV cache by token, activations by step. Sums over shapes and ops, exact."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod

from befit.models.program import Act, Add, Attention, Embed, GatedAct, Linear, Logits, Norm, Op, Program

Shapes = Mapping[str, tuple[int, ...]]

CLASSES = ("embedding", "attention", "mlp", "experts", "norms, biases", "head", "other")

# Names as GGUF spells them, then as Hugging Face's models do. The first that matches counts.
_PATTERNS = tuple(
    (kind, re.compile(pattern))
    for kind, pattern in (
        ("experts", r"_exps\.|\.experts\."),
        ("norms, biases", r"norm|\.bias$|layernorm|\bln_|e_score_correction"),
        ("embedding", r"^token_embd|^position_embd|embed_tokens|\bwte\b|\bwpe\b|word_embeddings|embed_in"),
        ("head", r"^output\.weight|lm_head|embed_out"),
        ("attention", r"attn|attention"),
        ("mlp", r"ffn|mlp|feed_forward|block_sparse_moe"),
    )
)

KV_BYTES = {"f16": (2, 0), "int8": (1, 4)}
"""Bytes of an element, and of the scale beside each key and each value."""


@lru_cache(maxsize=1 << 14)
def classify(name: str) -> str:
    """The class of a tensor by its name, one of `CLASSES`."""
    return next((kind for kind, pattern in _PATTERNS if pattern.search(name)), "other")


def by_class(sizes: Mapping[str, int]) -> dict[str, int]:
    """Sums of sizes by class of tensor, in the order of `CLASSES`, without those that are 0."""
    totals = dict.fromkeys(CLASSES, 0)
    for name, size in sizes.items():
        totals[classify(name)] += size
    return {kind: total for kind, total in totals.items() if total}


def parameters(shapes: Shapes) -> dict[str, int]:
    """Parameters by class."""
    return by_class({name: prod(shape) for name, shape in shapes.items()})


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """What a plan knows of a model.

    shapes: of the weights that the program names. counts: parameters by class. weights: bytes by class. stored: how
    the weights are kept, for people. used: part of the experts that a token uses, used_experts how many in a layer.
    why_not: why befit does not run it as it is, or None.
    """

    name: str
    origin: str
    family: str
    catalogue_family: str | None
    program: Program
    shapes: Shapes
    counts: Mapping[str, int]
    weights: Mapping[str, int]
    stored: str
    used: float = 1.0
    used_experts: int = 0
    why_not: str | None = None

    @property
    def parameters(self) -> int:
        """All parameters."""
        return sum(self.counts.values())

    @property
    def active_parameters(self) -> int:
        """Parameters that one token is multiplied with: not the embedding's rows, of the experts those used."""
        return round(sum(self._read(self.counts).values()))

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights."""
        return sum(self.weights.values())

    @property
    def bytes_per_token(self) -> int:
        """Bytes of weights that one step of one sequence reads at least."""
        return round(sum(self._read(self.weights).values()))

    def _read(self, sizes: Mapping[str, int]) -> dict[str, float]:
        tied = "head" not in sizes
        return {
            kind: size * (self.used if kind == "experts" else 1.0)
            for kind, size in sizes.items()
            if kind != "embedding" or tied
        }

    def requantised(self, bits: float, name: str) -> Model:
        """The same model with every matrix at so many bits a weight; norms and biases stay as they are."""
        kept = ("norms, biases", "other")
        weights = {
            kind: self.weights.get(kind, 2 * count) if kind in kept else round(count * bits / 8)
            for kind, count in self.counts.items()
        }
        return replace(self, weights=weights, stored=name)


def kv_bytes_per_token(program: Program, kv_dtype: str = "f16") -> int:
    """Bytes of KV cache that a token takes over all layers. Windowed layers keep every token too."""
    return sum(layer_kv_bytes(op, kv_dtype) for op in program.attentions())


def layer_kv_bytes(op: Attention, kv_dtype: str) -> int:
    """Bytes of KV cache that a token takes in one layer."""
    element, vector = KV_BYTES[kv_dtype]
    return 2 * op.n_kv_heads * (op.head_dim * element + vector)


def activation_bytes(model: Model, tokens: int, rows: int) -> int:
    """Bytes of activations in a step of `tokens` tokens of which `rows` are sampled: float32.

    Every value of the program has one buffer, as wide as the widest thing that is ever kept under its name; a backend
    that fuses ops needs less. The logits are rows of the vocabulary.
    """
    program, shapes = model.program, model.shapes
    widths: dict[str, int] = {}

    def width(op: Op) -> tuple[str, int]:
        match op:
            case Embed():
                return op.out, program.hidden_size
            case Linear():
                return op.out, _rows(op.weight, shapes[op.weight], model.used_experts)
            case Attention():
                return op.out, op.n_heads * op.head_dim
            case Norm():
                return op.out, shapes[op.weight][0]
            case Act():
                return op.out, widths[op.x]
            case GatedAct():
                return op.out, widths[op.up]
            case Add():
                return op.out, widths[op.a]
            case Logits():
                return "", 0

    for op in program.ops:
        name, wide = width(op)
        widths[name] = max(wide, widths.get(name, 0))
    return 4 * (tokens * sum(widths.values()) + rows * program.vocab_size)


def _rows(name: str, shape: tuple[int, ...], used_experts: int) -> int:
    """Columns of a Linear's result; of a weight with experts, those of all that a token uses."""
    if len(shape) == 2:
        return shape[0]
    return shape[1] * (1 if "_down" in name else max(1, used_experts))
