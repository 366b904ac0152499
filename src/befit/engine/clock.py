"""CPU time of one thread, readable from others."""

from __future__ import annotations

import threading
import time
from contextlib import suppress


class ThreadClock:
    """CPU seconds of the thread that makes it, from then on. Systems without such clocks (macOS) have none to read."""

    def __init__(self) -> None:
        clock_of = getattr(time, "pthread_getcpuclockid", None)
        self._clock: int | None = clock_of(threading.get_ident()) if clock_of is not None else None
        self._begin = self._seconds = 0.0
        self._begin = self.seconds() or 0.0

    def seconds(self) -> float | None:
        """CPU seconds so far, and what they were at the last reading once the thread has ended. None: unknown."""
        if self._clock is None:
            return None
        with suppress(OSError):  # the thread has ended
            self._seconds = time.clock_gettime(self._clock) - self._begin
        return self._seconds
