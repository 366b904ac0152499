"""`quant`: rounding a dense model to fewer bits while it is loaded, if it must be or if the user says so."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from befit.config import EngineConfig, EngineOptions
from befit.errors import ConfigError, DoesNotFit
from befit.models.program import Linear, Program
from befit.plan.hardware import physical_cores
from befit.weights.tensor import DenseTensor, Tensor, Weight

if TYPE_CHECKING:
    from befit.quantize.recipe import Target

CHOICES = ("auto", "none", "w8", "w4")
_WORDS = {
    "none": "weights as they are",
    "w8": "weights rounded to w8, 8 bits each",
    "w4": "weights rounded to w4, 4 bits each",
}


@dataclass(frozen=True, slots=True)
class Choice:
    """The weights to load; why, for people, is empty where there was nothing to choose."""

    weights: Mapping[str, Weight]
    why: str = ""


def choose(
    options: EngineOptions,
    program: Program,
    weights: Mapping[str, Weight],
    release: Callable[[Tensor], None],
    settle: Callable[[Mapping[str, Weight]], EngineConfig],
) -> Choice:
    """The weights of a model by `options.quant`.

    settle(weights) resolves the settings with these weights, or raises DoesNotFit. auto takes the most bits with which
    the context is as long as with the fewest. A model whose layers are quantised already, or packed, stays as it is.

    Raises ConfigError for a wish that is unknown or cannot be met; DoesNotFit where auto finds nothing that fits.
    """
    wish = options.quant
    if wish not in CHOICES:
        raise ConfigError(f"quant is {wish!r}; choose {', '.join(CHOICES)}.")
    dense = {name: weight for name, weight in weights.items() if isinstance(weight, DenseTensor)}
    layers = {op.weight for op in program.ops if isinstance(op, Linear)}
    if not layers <= dense.keys():
        if wish in ("w8", "w4"):
            raise ConfigError(
                f"quant is {wish!r}, but the model's weights are quantised or packed already; leave it at auto, or "
                "make another file of the original model with befit quantize."
            )
        return Choice(weights)
    threads = options.threads or physical_cores()
    plain = cast(Mapping[str, Tensor], weights)

    def rounded(to: str) -> Mapping[str, Weight]:
        if to == "none":
            return weights
        from befit.quantize.recipe import Quantised, formats  # most models need none of it

        chosen = formats(program, {name: weight.shape for name, weight in weights.items()}, cast("Target", to))
        made = Quantised(plain, chosen, threads=threads, release=release)
        return {name: made[name] for name in made}

    if wish != "auto":
        return Choice(rounded(wish), _WORDS[wish])
    fitting: dict[str, tuple[Mapping[str, Weight], int]] = {}
    refused: dict[str, DoesNotFit] = {}
    for to in CHOICES[1:]:
        candidate = rounded(to)
        try:
            fitting[to] = candidate, settle(candidate).ctx
        except DoesNotFit as error:
            refused[to] = error
    if not fitting:
        raise refused["w4"]
    longest = max(ctx for _, ctx in fitting.values())
    best = next(to for to, (_, ctx) in fitting.items() if ctx == longest)
    return Choice(fitting[best][0], _reason(best, weights, fitting[best][0], refused))


def _reason(
    best: str, dense: Mapping[str, Weight], chosen: Mapping[str, Weight], refused: Mapping[str, DoesNotFit]
) -> str:
    size, whole = (sum(weight.nbytes for weight in each.values()) / 1e9 for each in (chosen, dense))
    if best == "none":
        return f"{_WORDS[best]}: their {whole:.2f} GB fit"
    less = "those of the model itself and of w8" if best == "w4" else "those of the model itself"
    what = "fit the memory" if "none" in refused else "leave room for the context"
    return f"{_WORDS[best]}, {size:.2f} GB instead of {whole:.2f} GB: {less} do not {what}"
