"""All models of a server: a request names one, and gets its service."""

from __future__ import annotations

from collections.abc import Sequence

from befit.api.service import Service
from befit.errors import ModelNotFound

PLACEHOLDERS = frozenset({"dummy", "tgi"})
"""What Hugging Face's clients and TGI's examples send as a model's name for a server of one model."""


class Fleet:
    """The models served; requests that name none get the first. `draining`: nothing new is admitted."""

    def __init__(self, services: Sequence[Service]) -> None:
        self.services = list(services)
        self.draining = False
        self._by_name = {name: service for service in self.services for name in service.names}

    async def service(self, asked: str | None = None) -> Service:
        """The model of this name; the first where none was asked for. Raises ModelNotFound."""
        found = self._by_name.get(asked or "")
        if found is not None:
            return found
        if not asked or asked in PLACEHOLDERS:
            return self.services[0]
        found = self._by_name.get(asked.removesuffix(":latest"))
        if found is None:
            known = ", ".join(self._by_name)
            raise ModelNotFound(f"Model {asked[:200]!r} is not served here; this server has: {known}.")
        return found

    @property
    def alive(self) -> bool:
        """Whether every engine runs."""
        return all(service.engine.alive for service in self.services)

    async def start(self) -> None:
        """Start the engines."""
        for service in self.services:
            await service.engine.start()

    async def drain(self, timeout: float | None) -> None:
        """Admit nothing more and wait, at most so many seconds, for what was admitted."""
        self.draining = True
        for service in self.services:
            await service.engine.drain(timeout)

    async def stop(self) -> None:
        """Abort what is left and end the engines."""
        for service in self.services:
            await service.engine.stop()
