"""One model of a fleet, in memory or not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from befit.api.models.keep_alive import DEFAULT

if TYPE_CHECKING:
    from pathlib import Path

    from befit.api.service import Service


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model in memory. memory: bytes that it takes at most, by plan's arithmetic; close: frees them."""

    service: Service
    memory: int = 0
    close: Callable[[], None] = lambda: None


@dataclass(slots=True, eq=False)
class Member:
    """A model that requests can ask for.

    names     the served name first, then its aliases
    ref       what it is loaded from: a name, a reference or a path
    path      its file or folder
    listed    it is served whether or not it is in memory; else it is forgotten when it goes
    default   seconds that it stays in memory without a request; None: as long as the server runs
    users     requests under way that it was given to
    """

    names: tuple[str, ...]
    ref: str
    path: Path
    listed: bool = True
    default: float | None = DEFAULT
    loaded: Loaded | None = None
    keep_alive: float | None = None
    users: int = 0
    used: float = field(default_factory=time.monotonic)
    created: int = field(default_factory=lambda: int(time.time()))
    timer: asyncio.TimerHandle | None = None

    @property
    def name(self) -> str:
        """The served name."""
        return self.names[0]

    @property
    def service(self) -> Service | None:
        """What requests get while it is in memory."""
        return self.loaded.service if self.loaded is not None else None

    @property
    def idle(self) -> bool:
        """Whether no request is under way, also none that outlives its connection."""
        return self.users == 0 and (self.loaded is None or self.loaded.service.engine.idle)

    @property
    def expires(self) -> float | None:
        """Seconds until it goes if no request comes; None: never."""
        if self.keep_alive is None:
            return None
        return self.keep_alive if not self.idle else max(0.0, self.used + self.keep_alive - time.monotonic())
