"""What a step costs: its seconds as a line in its tokens, learned from the steps that are run anyway.

Reading the weights is the line's start, computing each token its slope. Kernels take more than a few tokens in blocks,
so a started block counts in full. The line is a least-squares fit whose older steps fade, drawn towards a prior slope
for want of steps of different sizes (ridge regression on the slope): nothing learned long ago, or by accident, lasts.
"""

from __future__ import annotations

_BLOCK = 16
_SMALL = 8  # up to here each token counts, from here on each block of 16
_FADE = 0.97
_PRIOR = 0.1  # of a step with one token: what another token costs, as long as nobody knows
_PRIOR_WEIGHT = 1.0  # the spread of sizes, in tokens squared, at which measured and prior slope count the same
_OUTLIER = 3.0  # a step that took so much longer than it should was interrupted by something else


def block_size(tokens: int) -> int:
    """Tokens that a step of `tokens` is paid for."""
    return tokens if tokens <= _SMALL else -(-tokens // _BLOCK) * _BLOCK


class StepTime:
    """`observe` steps, then `predict` others. Only ratios of predictions matter to those who ask."""

    def __init__(self) -> None:
        self._weight = self._n = self._nn = self._t = self._nt = 0.0
        self._start, self._slope = 1.0 - _PRIOR, _PRIOR

    @property
    def known(self) -> bool:
        """Whether a step was observed, so that predictions are in seconds."""
        return self._weight > 0

    def observe(self, tokens: int, seconds: float) -> None:
        """A step of so many tokens took so long."""
        n = float(block_size(tokens))
        t = min(seconds, _OUTLIER * self.predict(tokens)) if self.known else seconds
        self._weight = self._weight * _FADE + 1
        self._n = self._n * _FADE + n
        self._nn = self._nn * _FADE + n * n
        self._t = self._t * _FADE + t
        self._nt = self._nt * _FADE + n * t
        mean_n, mean_t = self._n / self._weight, self._t / self._weight
        spread = max(0.0, self._nn / self._weight - mean_n * mean_n)
        together = self._nt / self._weight - mean_n * mean_t
        prior = _PRIOR * mean_t / (1 + _PRIOR * (mean_n - 1))
        # More tokens never cost less, and never more than in proportion.
        self._slope = min(max((together + _PRIOR_WEIGHT * prior) / (spread + _PRIOR_WEIGHT), 0.0), mean_t / mean_n)
        self._start = mean_t - self._slope * mean_n

    def predict(self, tokens: int) -> float:
        """Seconds that a step of so many tokens takes; before any was observed, in units of a step of one token."""
        return self._start + self._slope * block_size(tokens)
