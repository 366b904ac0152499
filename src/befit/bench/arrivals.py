"""When an open loop sends its requests."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator


def poisson(rate: float, seed: int) -> Iterator[float]:
    """Seconds from the start to each arrival: independent exponential gaps of mean 1 / rate; infinite rate: all at 0.

    The same seed gives the same arrivals. Gaps are not scaled afterwards, so the number of arrivals in a given time
    varies as a Poisson process's does.
    """
    if math.isinf(rate):
        while True:
            yield 0.0
    rng = random.Random(f"arrivals {seed}")
    now = 0.0
    while True:
        now += rng.expovariate(rate)
        yield now
