"""How much one key may ask for: requests at once, and tokens a minute."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from befit.errors import RateLimited


@dataclass(frozen=True, slots=True)
class Limits:
    """None is no limit. tokens_per_minute counts prompts and outputs."""

    requests_at_once: int | None = None
    tokens_per_minute: int | None = None


@dataclass(slots=True)
class Account:
    """One key's use. Tokens are a bucket that holds a minute's worth and is refilled all the time.

    A request is let in while there is something in the bucket, and takes what it takes: the bucket may be overdrawn,
    and the next request waits until that is made good.
    """

    limits: Limits
    clock: Callable[[], float] = time.monotonic
    running: int = 0
    _level: float = field(init=False)
    _seen: float = field(init=False)

    def __post_init__(self) -> None:
        self._level = float(self.limits.tokens_per_minute or 0)
        self._seen = self.clock()

    def enter(self) -> None:
        """One more request. Raises RateLimited, with the seconds to wait."""
        most = self.limits.requests_at_once
        if most is not None and self.running >= most:
            raise RateLimited(
                f"{self.running} requests of this key are running, of {most} at once; try again later.", 1
            )
        rate = self.limits.tokens_per_minute
        if rate is not None:
            self._refill(rate)
            if self._level <= 0:
                seconds = math.ceil((1 - self._level) * 60 / rate)
                raise RateLimited(
                    f"This key has used up its {rate} tokens a minute; try again in {seconds} seconds.", seconds
                )
        self.running += 1

    def leave(self) -> None:
        """A request is over."""
        self.running -= 1

    def charge(self, tokens: int) -> None:
        """Tokens that were read or written."""
        self._level -= tokens

    def _refill(self, rate: int) -> None:
        now = self.clock()
        self._level = min(float(rate), self._level + (now - self._seen) * rate / 60)
        self._seen = now
