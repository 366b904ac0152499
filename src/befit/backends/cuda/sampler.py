"""What a sequence's sampler remembers, and what of it one row of a step needs."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from befit.backends.base import SamplerSpec

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = 2**64 - 1


def uniform(seed: int, index: int) -> float:
    """The random number in [0, 1) of output `index` of a sequence: counter-based splitmix64, as in the reference."""
    z = (seed + (index + 1) * _GOLDEN) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    z ^= z >> 31
    return float(z >> 11) * 2.0**-53


class TorchSampler:
    """One sequence's rules and its text. What penalties need of it is kept on the device, a number a token of the
    vocabulary: how often it is in the output, and one more bit whether it is in the prompt."""

    def __init__(self, spec: SamplerSpec, prompt: Sequence[int], vocab: int, device: torch.device) -> None:
        named = [
            *prompt,
            *spec.stop_ids,
            *spec.allowed_ids,
            *(i for i, _ in spec.logit_bias),
            *(i for word in spec.bad_words for i in word),
        ]
        for token in named:
            if not 0 <= token < vocab:
                raise ValueError(f"token id {token} is outside the vocabulary of {vocab}")
        self.spec = spec
        self.prompt = list(prompt)
        self.output: list[int] = []
        self.penalised = bool(spec.repetition_penalty != 1 or spec.frequency_penalty or spec.presence_penalty)
        self.counts: torch.Tensor | None = None  # int32 [vocab], output
        self.in_prompt: torch.Tensor | None = None  # bool [vocab]
        self.allowed: torch.Tensor | None = None  # bool [vocab]
        if self.penalised:
            self.counts = torch.zeros(vocab, dtype=torch.int32, device=device)
            self.in_prompt = torch.zeros(vocab, dtype=torch.bool, device=device)
            if prompt:
                self.in_prompt[torch.tensor(list(prompt), device=device)] = True
        if spec.allowed_ids:
            self.allowed = torch.zeros(vocab, dtype=torch.bool, device=device)
            self.allowed[torch.tensor(spec.allowed_ids, device=device)] = True

    @property
    def plain(self) -> bool:
        """Whether the row's token is just the likeliest."""
        spec = self.spec
        return not (
            spec.temperature
            or self.penalised
            or spec.logit_bias
            or spec.bad_words
            or spec.allowed_ids
            or spec.watermark
            or (spec.stop_ids and len(self.output) < spec.min_tokens)
        )

    def banned(self, ahead: Sequence[int]) -> set[int]:
        """Ids that may not follow the output and the drafts `ahead`: ends of bad words, stop ids that come early."""
        spec = self.spec
        longest = max((len(word) for word in spec.bad_words), default=0)
        text = [*self.output[-longest:], *ahead] if longest else []
        out: set[int] = set()
        for word in spec.bad_words:
            front = list(word[:-1])
            if not front or text[-len(front) :] == front:
                out.add(word[-1])
        if len(self.output) + len(ahead) < spec.min_tokens:
            out.update(spec.stop_ids)
        return out

    def before(self, ahead: Sequence[int]) -> int | None:
        """The token that the next one follows, for the watermark; None at the beginning of all text."""
        known = ahead or self.output or self.prompt
        return known[-1] if known else None

    def accept(self, token: int) -> None:
        """Remember a token that was sampled."""
        self.output.append(token)
        if self.counts is not None:
            self.counts[token] += 1
