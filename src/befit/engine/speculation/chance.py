"""How often something turned out right: a share of hits that begins at a guess and forgets slowly."""

from __future__ import annotations

_WEIGHT = 4.0  # outcomes that the first guess counts as, always
_MEMORY = 64.0  # outcomes that are remembered; beyond them, old ones count half


class Chance:
    """`value` is the probability of the next hit, strictly between 0 and 1."""

    __slots__ = ("_hits", "_prior", "_tries", "value")

    def __init__(self, prior: float) -> None:
        self._prior = prior * _WEIGHT
        self._hits = self._tries = 0.0
        self.value = prior

    def count(self, hits: float, tries: float = 1.0) -> None:
        """So many of so many outcomes were hits."""
        if self._tries >= _MEMORY:
            self._hits /= 2
            self._tries /= 2
        self._hits += hits
        self._tries += tries
        self.value = (self._hits + self._prior) / (self._tries + _WEIGHT)
