"""Responses kept in memory: the newest ones, up to a number and a size."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import Any

from befit.api.openai.responses.items import Item, size
from befit.errors import ResponseNotFound

MAX_RESPONSES = 1000
MAX_BYTES = 64 * 1024 * 1024

RUNNING = ("queued", "in_progress")


class EventLog:
    """The events of one response, for any number of readers, each from where it likes."""

    def __init__(self) -> None:
        self._events: list[bytes] = []
        self._ended = False
        self._news = asyncio.Event()

    def add(self, event: bytes) -> None:
        """One more event."""
        self._events.append(event)
        self._wake()

    def end(self) -> None:
        """No more events come."""
        self._ended = True
        self._wake()

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def read(self, start: int = 0) -> AsyncGenerator[bytes, None]:
        """The events from number `start` on, those to come included."""
        while True:
            for event in self._events[start:]:
                yield event
                start += 1
            if self._ended and start >= len(self._events):
                return
            if start >= len(self._events):
                await self._news.wait()

    @property
    def bytes(self) -> int:
        """What they take."""
        return sum(map(len, self._events))


@dataclass(slots=True)
class Kept:
    """One response. body: the response object as it is now. input: the items that its request brought; context: the
    whole conversation, its output included once it has ended. task runs it, if it runs in the background."""

    body: dict[str, Any]
    input: list[Item]
    context: list[Item]
    log: EventLog | None = None
    task: asyncio.Task[None] | None = None
    size: int = field(default=0)

    @property
    def id(self) -> str:
        """The response's."""
        name: str = self.body["id"]
        return name

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self.body["status"] in RUNNING


class ResponseStore:
    """The newest responses. The oldest that have ended make room; what runs stays."""

    def __init__(self, max_responses: int = MAX_RESPONSES, max_bytes: int = MAX_BYTES) -> None:
        self.max_responses = max_responses
        self.max_bytes = max_bytes
        self.bytes = 0
        self._kept: dict[str, Kept] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def __contains__(self, name: str) -> bool:
        return name in self._kept

    def get(self, name: str) -> Kept:
        """The response of this id. Raises ResponseNotFound."""
        kept = self._kept.get(name)
        if kept is None:
            raise ResponseNotFound(
                f"Response {name[:80]!r} is not kept here: it was deleted, was not stored, or made room for newer ones "
                f"(the newest {self.max_responses} are kept, and at most {self.max_bytes} bytes)."
            )
        return kept

    def put(self, kept: Kept) -> None:
        """Keep a response, or count anew what it takes."""
        known = self._kept.get(kept.id)
        if known is not None:
            self.bytes -= known.size
        # A conversation's items are shared by its responses; counting them for each errs on the safe side.
        kept.size = size(kept.context) + size([kept.body]) + (kept.log.bytes if kept.log is not None else 0)
        self._kept[kept.id] = kept
        self.bytes += kept.size
        for old in [old for old in self._kept.values() if not old.running]:
            if len(self._kept) <= self.max_responses and self.bytes <= self.max_bytes:
                break
            self._remove(old)

    def delete(self, name: str) -> Kept:
        """Forget a response. Raises ResponseNotFound."""
        kept = self.get(name)
        self._remove(kept)
        return kept

    def finder(self) -> Callable[[str], Item | None]:
        """A function that gives the item of an id in any conversation, as they are when it is first called."""
        items: dict[str, Item] = {}

        def find(name: str) -> Item | None:
            if not items:
                items.update({item["id"]: item for kept in self._kept.values() for item in kept.context})
            return items.get(name)

        return find

    def _remove(self, kept: Kept) -> None:
        del self._kept[kept.id]
        self.bytes -= kept.size
