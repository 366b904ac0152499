"""Rotary frequencies: the plain ones and every context extension, folded into `Rope.inv_freq` and `Rope.scale`.

All work in float64; a backend rounds as it needs. Angles of pair i at position p are `p * inv_freq[i]`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from befit.models.program import Rope

F64: TypeAlias = npt.NDArray[np.float64]
ScalingKind: TypeAlias = Literal["none", "linear", "llama3", "yarn"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeScaling:
    """How a model's positions are stretched beyond the context it was first trained on.

    factor            times the original context
    original_context  tokens of it
    attention_factor  yarn: multiplies the scheme's own attention factor, as GGUF's `rope.scaling.attn_factor` does
    beta_fast, _slow  yarn: turns over the original context above which a pair is kept, below which it is stretched
    low_, high_freq_factor  llama3: the same two bounds
    """

    kind: ScalingKind = "none"
    factor: float = 1.0
    original_context: int = 0
    attention_factor: float = 1.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0


def make_rope(
    dim: int, base: float, scaling: RopeScaling, *, interleaved: bool = False, factors: F64 | None = None
) -> Rope:
    """The `Rope` of `dim` components, frequency base `base` and a scaling.

    factors: float [dim/2], divides each plain frequency before the scaling (GGUF's `rope_freqs.weight`, which is how
    Llama 3 files carry their scheme).
    """
    freqs = plain(dim, base)
    if factors is not None:
        freqs = freqs / factors
    scale = 1.0
    if scaling.kind == "linear":
        freqs = freqs / scaling.factor
    elif scaling.kind == "llama3":
        freqs = llama3(
            freqs, scaling.factor, scaling.low_freq_factor, scaling.high_freq_factor, scaling.original_context
        )
    elif scaling.kind == "yarn":
        freqs = yarn(freqs, base, scaling.factor, scaling.original_context, scaling.beta_fast, scaling.beta_slow)
        scale = scaling.attention_factor * yarn_attention_factor(scaling.factor)
    return Rope(dim=dim, inv_freq=tuple(freqs.tolist()), interleaved=interleaved, scale=scale)


def plain(dim: int, base: float) -> F64:
    """base^(-2i/dim) for i < dim/2 (RoFormer, arXiv 2104.09864)."""
    return np.float64(base) ** (-np.arange(0, dim, 2, dtype=np.float64) / dim)


def llama3(inv_freq: F64, factor: float, low: float, high: float, original_context: int) -> F64:
    """Llama 3.1's scheme (Meta's llama-models, `apply_scaling`).

    A pair that turns more than `high` times within the original context is kept, one that turns fewer than `low` times
    is slowed by `factor`, and the frequencies between are mixed linearly in their number of turns.
    """
    turns = original_context * inv_freq / (2 * math.pi)
    keep = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return keep * inv_freq + (1 - keep) * inv_freq / factor


def yarn(
    inv_freq: F64, base: float, factor: float, original_context: int, beta_fast: float = 32.0, beta_slow: float = 1.0
) -> F64:
    """YaRN's "NTK by parts" (Peng et al., arXiv 2309.00071, section 3.2), mixed linearly in the index of the pair.

    The pairs that turn beta_fast and beta_slow times within the original context bound the ramp, rounded outwards, as
    in the authors' code.
    """
    dim = 2 * len(inv_freq)

    def pair_that_turns(times: float) -> float:
        return dim * math.log(original_context / (times * 2 * math.pi)) / (2 * math.log(base))

    first = max(math.floor(pair_that_turns(beta_fast)), 0)
    last = min(math.ceil(pair_that_turns(beta_slow)), dim - 1)
    stretch = np.clip((np.arange(dim // 2) - first) / max(last - first, 0.001), 0.0, 1.0)
    return (1 - stretch) * inv_freq + stretch * inv_freq / factor


def yarn_attention_factor(factor: float) -> float:
    """YaRN's temperature as a factor of cos and sin: 0.1 ln(factor) + 1 (arXiv 2309.00071, equation 22)."""
    return 0.1 * math.log(factor) + 1.0 if factor > 1.0 else 1.0
