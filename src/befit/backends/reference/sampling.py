"""The oracle of the sampler: one row of logits to one token, by definition rather than by speed.

The filters are those of `SamplingParams`, in its order, worked in float64:

 1. repetition penalty r over every id in prompt or output: x > 0 becomes x / r, at most the largest float32; any other
    x becomes x * r (arXiv 1909.05858)
 2. frequency and presence penalties over the output: x -= frequency * count + presence * (count > 0)
 3. logit_bias is added
 4. bans: the last id of a bad word whose front part ends the output, stop ids before min_tokens, when allowed ids are
    given all others, and what the row's mask does not allow become -inf
 5. temperature 0: the largest logit, ties to the lower id, and nothing else applies. Else p = softmax(x / temperature)
 6. top_k: the k likeliest, ties to the lower id
 7. top_p: over the renormalised survivors, the fewest likeliest whose mass reaches top_p
 8. min_p: survivors with p >= min_p * (the largest p)
 9. typical_p: over the renormalised survivors with entropy H, in rising |-ln p - H| (ties to the likelier), the fewest
    whose mass reaches typical_p (arXiv 2202.00666)
10. inverse CDF: survivors in order of falling p (ties to the lower id), the first whose running mass exceeds u * total

u is counter-based, so that a sequence's draws depend on its seed and its position only: the uniform of output index t
is `splitmix64(seed + (t + 1) * GOLDEN) >> 11` times 2^-53, all modulo 2^64 (Steele, Lea & Flood, "Fast Splittable
Pseudorandom Number Generators", OOPSLA 2014, with Stafford's variant 13 of the mixing function).
"""

from __future__ import annotations

from collections import Counter
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from befit.backends.base import F32, SamplerSpec
from befit.watermark import DELTA, favoured

F64: TypeAlias = npt.NDArray[np.float64]

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = 2**64 - 1
_LARGEST = float(np.finfo(np.float32).max)


def uniform(seed: int, index: int) -> float:
    """The random number in [0, 1) of output `index` (from 0) of a sequence."""
    z = (seed + (index + 1) * _GOLDEN) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    z ^= z >> 31
    return float(z >> 11) * 2.0**-53


class ReferenceSampler:
    """One sequence's rules, prompt and output so far."""

    def __init__(self, spec: SamplerSpec, prompt: list[int], vocab_size: int) -> None:
        named = [
            *prompt,
            *spec.stop_ids,
            *spec.allowed_ids,
            *(i for i, _ in spec.logit_bias),
            *(i for word in spec.bad_words for i in word),
        ]
        for token in named:
            if not 0 <= token < vocab_size:
                raise ValueError(f"token id {token} is outside the vocabulary of {vocab_size}")
        self.spec = spec
        self.prompt = list(prompt)
        self.output: list[int] = []

    def sample(self, logits: F32, allowed: npt.NDArray[np.bool_] | None = None) -> int | None:
        """The next token, remembered as output; None when every token is banned. allowed: [vocab], None is all."""
        adjusted = self.adjusted(logits)
        if allowed is not None:
            adjusted[~allowed] = -np.inf
        candidates = survivors(adjusted, self.spec)
        if candidates is None:
            return None
        ids, p = candidates
        mass = np.cumsum(p)
        u = uniform(self.spec.seed, len(self.output))
        token = int(ids[min(int(np.searchsorted(mass, u * mass[-1], side="right")), len(ids) - 1)])
        self.output.append(token)
        return token

    def adjusted(self, logits: F32) -> F64:
        """Steps 1 to 4: penalties, biases and bans."""
        spec, x = self.spec, logits.astype(np.float64)
        seen = sorted({*self.prompt, *self.output})
        with np.errstate(over="ignore"):
            x[seen] = np.where(x[seen] > 0, x[seen] / spec.repetition_penalty, x[seen] * spec.repetition_penalty)
        x = np.minimum(x, _LARGEST)
        for token, count in Counter(self.output).items():
            x[token] -= spec.frequency_penalty * count + spec.presence_penalty
        for token, bias in spec.logit_bias:
            x[token] += bias
        known = self.output or self.prompt
        if spec.watermark and known:
            x[favoured(known[-1], np.arange(len(x)))] += DELTA
        for word in spec.bad_words:
            front = list(word[:-1])
            if not front or self.output[-len(front) :] == front:
                x[word[-1]] = -np.inf
        if len(self.output) < spec.min_tokens:
            x[list(spec.stop_ids)] = -np.inf
        if spec.allowed_ids:
            banned = np.ones(len(x), bool)
            banned[list(spec.allowed_ids)] = False
            x[banned] = -np.inf
        return x


def survivors(x: F64, spec: SamplerSpec) -> tuple[npt.NDArray[np.int64], F64] | None:
    """Steps 5 to 9: the ids that may be drawn, likeliest first, with their probabilities (not renormalised at the end).

    None when no logit is above -inf.
    """
    ids = np.argsort(-x, kind="stable")  # a stable sort leaves ties in order of ids
    ids = ids[x[ids] > -np.inf]
    if len(ids) == 0:
        return None
    if spec.temperature == 0:
        return ids[:1], np.ones(1)
    with np.errstate(over="ignore"):
        p = np.exp((x[ids] - x[ids[0]]) / spec.temperature)
    p /= p.sum()

    if spec.top_k:
        ids, p = ids[: spec.top_k], p[: spec.top_k]
        p = p / p.sum()
    if spec.top_p < 1:
        kept = _fewest_reaching(p, spec.top_p)
        ids, p = ids[:kept], p[:kept] / p[:kept].sum()
    if spec.min_p > 0:
        keep = p >= spec.min_p * p[0]
        ids, p = ids[keep], p[keep] / p[keep].sum()
    if spec.typical_p < 1:
        with np.errstate(divide="ignore", invalid="ignore"):
            surprise = -np.log(p)
            entropy = float(np.sum(p * surprise, where=p > 0))
        order = np.argsort(np.abs(surprise - entropy), kind="stable")
        keep = np.sort(order[: _fewest_reaching(p[order], spec.typical_p)])
        ids, p = ids[keep], p[keep] / p[keep].sum()
    return ids, p


def _fewest_reaching(p: F64, mass: float) -> int:
    """How many leading entries of p sum to `mass` or more: at least one, and all if rounding falls short."""
    return min(int(np.searchsorted(np.cumsum(p), mass, side="left")) + 1, len(p))


def log_softmax(logits: F32) -> F64:
    """ln softmax of one row, in float64."""
    x = logits.astype(np.float64)
    x -= x.max()
    result: F64 = x - np.log(np.exp(x).sum())
    return result


def rank_of(logits: F32, token: int) -> int:
    """1 for the largest logit; equal logits rank by id, so that ranks 1..k are the entries of `top_of`."""
    x = logits[token]
    return 1 + int(np.count_nonzero(logits > x)) + int(np.count_nonzero(logits[:token] == x))


def top_of(logits: F32, k: int) -> list[tuple[int, float]]:
    """The k largest logits as (id, log-probability), ties to the lower id."""
    logprobs = log_softmax(logits)
    return [(int(i), float(logprobs[i])) for i in np.argsort(-logits, kind="stable")[:k]]
