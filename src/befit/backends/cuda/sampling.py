"""Sampling on the device, all rows of a step side by side, by the rules of the reference's sampler and in float64.

A row behind a draft is sampled as if the draft were right, at once with the others; which of them count is decided when
the tokens are back on the host.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from befit.backends.base import U32
from befit.backends.cuda.sampler import TorchSampler, uniform
from befit.backends.cuda.size import ROWS_AT_ONCE
from befit.watermark import DELTA

_LARGEST = float(np.finfo(np.float32).max)


@dataclass(slots=True)
class Row:
    """A row to sample: its sampler, the drafts assumed before it, and the mask that it is confined to, or -1."""

    sampler: TorchSampler
    ahead: list[int]
    mask: int = -1

    @property
    def plain(self) -> bool:
        """Whether its token is just the likeliest."""
        return self.mask < 0 and self.sampler.plain


def sample(logits: torch.Tensor, rows: list[Row], masks: torch.Tensor | None) -> torch.Tensor:
    """Tokens int64 [R] of float32 logits [R, vocab]; -1 where every token is banned. masks int32 [M, words]."""
    if all(row.plain for row in rows):
        return logits.argmax(dim=-1)
    parts = [
        _sample_some(logits[start : start + ROWS_AT_ONCE], rows[start : start + ROWS_AT_ONCE], masks)
        for start in range(0, len(rows), ROWS_AT_ONCE)
    ]
    return torch.cat(parts)


def _sample_some(logits: torch.Tensor, rows: list[Row], masks: torch.Tensor | None) -> torch.Tensor:
    x = _adjusted(logits, rows, masks)
    best, tokens = x.max(dim=-1).values, x.argmax(dim=-1)
    drawn = [i for i, row in enumerate(rows) if row.sampler.spec.temperature > 0]
    if drawn:
        index = torch.tensor(drawn, device=x.device)
        tokens[index] = _draw(x[index], [rows[i] for i in drawn])
    return torch.where(best > -torch.inf, tokens, -1)


def _adjusted(logits: torch.Tensor, rows: list[Row], masks: torch.Tensor | None) -> torch.Tensor:
    """Penalties, biases and bans: steps 1 to 4 of the reference's sampler."""
    device = logits.device
    x = logits.double()
    _penalise(x, rows)
    _favour(x, rows)
    bias = [(r, token, value) for r, row in enumerate(rows) for token, value in row.sampler.spec.logit_bias]
    if bias:
        at, tokens, values = zip(*bias, strict=True)
        where = (torch.tensor(at, device=device), torch.tensor(tokens, device=device))
        x.index_put_(where, torch.tensor(values, dtype=x.dtype, device=device), accumulate=True)
    banned = [(r, token) for r, row in enumerate(rows) for token in row.sampler.banned(row.ahead)]
    if banned:
        at, tokens = zip(*banned, strict=True)
        x[torch.tensor(at, device=device), torch.tensor(tokens, device=device)] = -torch.inf
    for r, row in enumerate(rows):
        if row.sampler.allowed is not None:
            x[r].masked_fill_(~row.sampler.allowed, -torch.inf)
    confined = [(r, row.mask) for r, row in enumerate(rows) if row.mask >= 0]
    if confined and masks is not None:
        at, index = (torch.tensor(each, device=device) for each in zip(*confined, strict=True))
        x[at] = x[at].masked_fill(~_unpack(masks[index], x.shape[1]), -torch.inf)
    return x


def _penalise(x: torch.Tensor, rows: list[Row]) -> None:
    wanted = [(r, row) for r, row in enumerate(rows) if row.sampler.penalised]
    if not wanted:
        x.clamp_(max=_LARGEST)
        return
    device = x.device
    index = torch.tensor([r for r, _ in wanted], device=device)
    counts = torch.stack([row.sampler.counts for _, row in wanted])
    ahead = [(i, token) for i, (_, row) in enumerate(wanted) for token in row.ahead]
    if ahead:
        at, tokens = (torch.tensor(each, device=device) for each in zip(*ahead, strict=True))
        counts.index_put_((at, tokens), torch.ones_like(at, dtype=counts.dtype), accumulate=True)
    seen = torch.stack([row.sampler.in_prompt for _, row in wanted]) | (counts > 0)
    specs = [row.sampler.spec for _, row in wanted]
    repetition, frequency, presence = (
        torch.tensor(values, dtype=x.dtype, device=device)[:, None]
        for values in (
            [spec.repetition_penalty for spec in specs],
            [spec.frequency_penalty for spec in specs],
            [spec.presence_penalty for spec in specs],
        )
    )
    part = x[index]
    part = torch.where(seen, torch.where(part > 0, part / repetition, part * repetition), part).clamp_(max=_LARGEST)
    x.clamp_(max=_LARGEST)
    x[index] = part - torch.where(counts > 0, frequency * counts + presence, torch.zeros_like(part))


def _favour(x: torch.Tensor, rows: list[Row]) -> None:
    """The watermark's half of the vocabulary: `befit.watermark.favoured`, in int64 that wraps around."""
    for r, row in enumerate(rows):
        before = row.sampler.before(row.ahead) if row.sampler.spec.watermark else None
        if before is None:
            continue
        z = torch.arange(x.shape[1], dtype=torch.int64, device=x.device) + _signed((before + 1) * 0x9E3779B97F4A7C15)
        z = (z ^ _shifted(z, 30)) * _signed(0xBF58476D1CE4E5B9)
        z = (z ^ _shifted(z, 27)) * _signed(0x94D049BB133111EB)
        x[r] += DELTA * (z < 0)


def _signed(value: int) -> int:
    """The same 64 bits as a signed number."""
    value &= 2**64 - 1
    return value - 2**64 if value >= 2**63 else value


def _shifted(z: torch.Tensor, by: int) -> torch.Tensor:
    """A shift to the right that brings in zeros."""
    return (z >> by) & ((1 << (64 - by)) - 1)


def _unpack(bits: torch.Tensor, vocab: int) -> torch.Tensor:
    """int32 words [n, words] as bool [n, vocab]."""
    shift = torch.arange(32, dtype=torch.int32, device=bits.device)
    return (((bits[:, :, None] >> shift) & 1) != 0).flatten(1)[:, :vocab]


def _draw(x: torch.Tensor, rows: list[Row]) -> torch.Tensor:
    """Steps 5 to 10 for rows with a temperature: x float64 [n, vocab] → tokens [n]."""
    specs = [row.sampler.spec for row in rows]

    def column(values: list[float]) -> torch.Tensor:
        return torch.tensor(values, dtype=x.dtype, device=x.device)[:, None]

    ordered, ids = torch.sort(x, dim=-1, descending=True, stable=True)
    keep = ordered > -torch.inf
    p = torch.where(keep, ((ordered - ordered[:, :1]) / column([s.temperature for s in specs])).exp(), 0.0)
    p = p / p.sum(dim=-1, keepdim=True)
    rank = torch.arange(x.shape[1], device=x.device)[None, :]

    def drop(p: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
        left = torch.where(keep, p, 0.0)
        return left / left.sum(dim=-1, keepdim=True)

    if any(spec.top_k for spec in specs):
        top_k = torch.tensor([spec.top_k or x.shape[1] for spec in specs], device=x.device)[:, None]
        keep = keep & (rank < top_k)
        p = drop(p, keep)
    if any(spec.top_p < 1 for spec in specs):
        mass = column([spec.top_p if spec.top_p < 1 else torch.inf for spec in specs])
        keep = keep & (_mass_before(p) < mass)
        p = drop(p, keep)
    if any(spec.min_p > 0 for spec in specs):
        keep = keep & (p >= column([spec.min_p for spec in specs]) * p[:, :1])
        p = drop(p, keep)
    if any(spec.typical_p < 1 for spec in specs):
        keep = keep & _typical(p, keep, column([s.typical_p if s.typical_p < 1 else torch.inf for s in specs]))
        p = drop(p, keep)
    mass = p.cumsum(dim=-1)
    u = column([uniform(row.sampler.spec.seed, len(row.sampler.output) + len(row.ahead)) for row in rows])
    place = torch.searchsorted(mass, u * mass[:, -1:], right=True)
    last = torch.where(keep, rank, 0).amax(dim=-1, keepdim=True)
    return ids.gather(1, torch.minimum(place, last))[:, 0]


def _mass_before(p: torch.Tensor) -> torch.Tensor:
    """The sum of all entries before each: below a mass m, as many entries as it takes to reach m are."""
    total = p.cumsum(dim=-1)
    return torch.cat((torch.zeros_like(total[:, :1]), total[:, :-1]), dim=-1)


def _typical(p: torch.Tensor, keep: torch.Tensor, mass: torch.Tensor) -> torch.Tensor:
    """Which entries are locally typical (arXiv 2202.00666): the fewest of rising |-ln p - H| that reach the mass."""
    surprise = -p.log()
    entropy = torch.where(p > 0, p * surprise, 0.0).sum(dim=-1, keepdim=True)
    distance = torch.where(keep, (surprise - entropy).abs(), torch.inf)
    order = torch.sort(distance, dim=-1, stable=True).indices
    chosen = _mass_before(p.gather(1, order)) < mass
    return torch.zeros_like(keep).scatter(1, order, chosen)


@dataclass(slots=True)
class Scores:
    """Of rows that asked: the token's log-probability and rank, and ids and log-probabilities of the likeliest."""

    logprob: torch.Tensor
    rank: torch.Tensor
    ids: torch.Tensor
    top: torch.Tensor


def score(logits: torch.Tensor, tokens: torch.Tensor, most: int) -> Scores:
    """For float32 logits [n, vocab] and tokens [n]; the `most` likeliest of each, ties to the lower id."""
    logprobs = logits.double().log_softmax(dim=-1)
    x = logits.gather(1, tokens[:, None])
    lower = torch.arange(logits.shape[1], device=logits.device)[None, :] < tokens[:, None]
    rank = 1 + (logits > x).sum(dim=-1) + ((logits == x) & lower).sum(dim=-1)
    ids = torch.sort(logits, dim=-1, descending=True, stable=True).indices[:, :most]
    return Scores(logprobs.gather(1, tokens[:, None])[:, 0], rank, ids, logprobs.gather(1, ids))


def send_masks(bits: U32, device: torch.device) -> torch.Tensor:
    """Masks as int32 words on the device."""
    return torch.from_numpy(np.ascontiguousarray(bits).view(np.int32)).to(device)
