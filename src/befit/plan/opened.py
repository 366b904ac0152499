"""What a plan needs to know of a model whose weights are there to be read."""

from __future__ import annotations

from collections.abc import Mapping

from befit.backends.cuda.arrays import e4m3_blocks
from befit.backends.cuda.size import fp8_bytes
from befit.models.program import Program
from befit.plan.memory import Model, by_class, parameters, shares
from befit.weights.tensor import DenseTensor, MadeTensor, PackedTensor, Weight


def of_weights(name: str, origin: str, program: Program, weights: Mapping[str, Weight]) -> Model:
    """The model of these weights. None of them is read."""
    formats = {key: _format(weight) for key, weight in weights.items()}
    sizes = {key: _stored(weight) for key, weight in weights.items()}
    kinds: dict[str, int] = {}
    for key, form in formats.items():
        kind = form.partition("/")[0].upper()
        kinds[kind] = kinds.get(kind, 0) + sizes[key]
    shapes: dict[str, tuple[int, ...]] = {key: weight.shape for key, weight in weights.items()}
    return Model(
        name=name,
        origin=origin,
        family=program.family,
        catalogue_family=name.partition(":")[0] if ":" in name else None,
        program=program,
        shapes=shapes,
        counts=parameters(shapes),
        weights=by_class(sizes),
        stored=shares(kinds),
        formats=formats,
        fp8={
            key: fp8_bytes(weight.shape, *blocks)
            for key, weight in weights.items()
            if (blocks := _e4m3(weight)) is not None
        },
    )


def _e4m3(weight: Weight) -> tuple[int, int] | None:
    """Rows and columns of the blocks of a matrix of e4m3; None for others."""
    if isinstance(weight, PackedTensor):
        return e4m3_blocks(weight.format)
    if isinstance(weight, MadeTensor) and weight.fp8 is not None:
        return weight.fp8.tall, weight.fp8.wide
    return None


def _format(weight: Weight) -> str:
    if isinstance(weight, DenseTensor):
        return weight.dtype
    return weight.format if isinstance(weight, PackedTensor) else weight.format.name


def _stored(weight: Weight) -> int:
    table = weight.table if isinstance(weight, PackedTensor) else None
    return weight.nbytes + (table.nbytes if table is not None else 0)
