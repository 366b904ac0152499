"""What a model takes: weights by class, KV cache by token, activations by step. Sums over shapes and ops, exact.

Weights are counted twice: as they are stored, and as the CPU backend keeps them, which packs matrices for its kernels
and maps the table of embeddings. What is mapped counts in full: a server that runs for a while has touched all of it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from math import prod
from typing import TYPE_CHECKING

from befit.errors import UnsupportedModel
from befit.models.program import KV_BYTES, Act, Add, Attention, Embed, GatedAct, Linear, Logits, Norm, Op, Program

if TYPE_CHECKING:
    from befit.backends.native.size import Buffers

Shapes = Mapping[str, tuple[int, ...]]

PACKED_EXTRA_BITS = 0.5
"""Bits a weight that K-quants of less than 8 bits take more when packed: their scales are unpacked for the kernels."""
_KEPT = ("norms, biases", "other")  # classes that quantising leaves as they are
DENSE = frozenset(("f32", "f16", "bf16"))

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


def in_memory(
    program: Program, shapes: Shapes, formats: Mapping[str, str], stored: Mapping[str, int]
) -> Mapping[str, int]:
    """Bytes by class as the CPU backend keeps them; `stored` by class are they for models that it does not run.

    Matrices are packed; embeddings are mapped from the file; norms and biases are float32.
    """
    from befit.prepared.plan import plan

    try:
        sections, _ = plan(program, {name: (formats[name], shapes[name]) for name in program.weight_names()})
    except (UnsupportedModel, KeyError):
        sections = []
    if not sections:
        return stored if "head" in stored or "embedding" not in stored else {**stored, "head": stored["embedding"]}
    sizes = dict.fromkeys(CLASSES, 0)
    for section in sections:
        kind = classify(section.name)
        if section.role == "matrix" and kind == "embedding":
            kind = "head"
        sizes[kind] += 4 * prod(section.shape) if section.role == "vector" else section.nbytes
    return {kind: size for kind, size in sizes.items() if size}


@dataclass(frozen=True, kw_only=True)
class Model:
    """What a plan knows of a model.

    shapes: of the weights that the program names. counts: parameters by class. weights: bytes by class as stored.
    stored: how, for people; formats: the same by name of weight, where it is known; bits: a weight, as if quantised.
    used: part of the experts that a token uses, used_experts how many in a layer. why_not: why befit does not run it as
    it is, or None. draft: a model that guesses ahead for this one, whose memory comes on top. fp8: bytes that weights
    of e4m3 take on a card, by name. sized: what is known of its buffers, by weights that are not quantised; shared by
    all that is made of this model.
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
    formats: Mapping[str, str] = field(default_factory=dict)
    bits: float | None = None
    used: float = 1.0
    used_experts: int = 0
    why_not: str | None = None
    draft: Model | None = None
    fp8: Mapping[str, int] = field(default_factory=dict)
    sized: dict[frozenset[str], Buffers | None] = field(default_factory=dict, compare=False, repr=False)

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
        """Bytes of all weights as stored."""
        return sum(self.weights.values())

    @cached_property
    def memory(self) -> Mapping[str, int]:
        """Bytes by class as the CPU backend keeps them."""
        if self.bits is None:
            return in_memory(self.program, self.shapes, self.formats, self.weights)
        packed = self.bits + PACKED_EXTRA_BITS if self.bits < 8 else self.bits
        sizes = {kind: round(count * packed / 8) for kind, count in self.counts.items()}
        if "head" not in sizes:  # tied: the embedding is looked up, and multiplied with
            sizes["head"] = sizes.get("embedding", 0)
        return sizes | {kind: self.weights[kind] for kind in (*_KEPT, "embedding") if kind in self.weights}

    @property
    def memory_bytes(self) -> int:
        """Bytes of all weights as the CPU backend keeps them."""
        return sum(self.memory.values())

    @property
    def parts(self) -> tuple[Model, ...]:
        """The model and, if it has one, its draft model."""
        return (self,) if self.draft is None else (self, self.draft)

    @cached_property
    def buffers(self) -> Buffers | None:
        """What the native backend's buffers take, or None for a model that it does not run."""
        dense = frozenset(name for name, form in self.formats.items() if form in DENSE)
        if dense not in self.sized:
            self.sized[dense] = self._size(dense)
        return self.sized[dense]

    def _size(self, dense: frozenset[str]) -> Buffers | None:
        from befit.backends.native.size import buffers

        if any(len(shape) > 2 for shape in self.shapes.values()):
            return None
        try:
            return buffers(self.program, self.shapes, dense)
        except UnsupportedModel:
            return None

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
        weights = {
            kind: self.weights.get(kind, 2 * count) if kind in _KEPT else round(count * bits / 8)
            for kind, count in self.counts.items()
        }
        return replace(self, weights=weights, stored=name, formats={}, bits=bits, fp8={})


def shares(kinds: Mapping[str, int]) -> str:
    """Storage types with their parts of the bytes, the largest first."""
    everything = sum(kinds.values())
    ranked = sorted(kinds.items(), key=lambda item: -item[1])
    return ", ".join(f"{kind} {count / everything:.0%}" for kind, count in ranked if count / everything >= 0.005)


def kv_bytes_per_token(program: Program, kv_dtype: str = "f16") -> int:
    """Bytes of KV cache that a token takes over all layers. Windowed layers keep every token too."""
    return program.kv_bytes_per_token(kv_dtype)


def layer_kv_bytes(op: Attention, kv_dtype: str) -> int:
    """Bytes of KV cache that a token takes in one layer."""
    element, vector = KV_BYTES[kv_dtype]
    return 2 * op.n_kv_heads * (op.head_dim * element + vector)


def activation_bytes(model: Model, tokens: int, rows: int, *, threads: int = 1, ctx: int = 0) -> int:
    """Bytes of activations in a step of `tokens` tokens of which `rows` have logits, in contexts of `ctx` tokens.

    For a model that befit runs these are the native backend's buffers. Else every value of the program has one of
    float32, as wide as the widest thing that is ever kept under its name; the logits are rows of the vocabulary.
    """
    if model.buffers is not None:
        return model.buffers.total(tokens, rows, threads, ctx)
    return plain_activation_bytes(model, tokens, rows)


def plain_activation_bytes(model: Model, tokens: int, rows: int) -> int:
    """Those of a backend that keeps every value as float32 and fuses nothing."""
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
