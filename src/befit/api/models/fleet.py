"""All models of a server: a request names one, and gets its service.

Models are loaded when they are asked for, one at a time and off the event loop. What all of them take together stays
within the memory that plan's arithmetic allows: each is sized for what the others leave. Where that is not enough, idle
ones go, the least recently used first. A model that a request has been given stays until the request is over.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Protocol

from befit.api.models.member import Loaded, Member
from befit.errors import ConfigError, DoesNotFit, ModelNotFound, Overloaded

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from befit.api.models.library import Library
    from befit.api.service import Service
    from befit.store import ModelRow

log = logging.getLogger("befit.models")

PLACEHOLDERS = frozenset({"dummy", "tgi"})
"""What Hugging Face's clients and TGI's examples send as a model's name for a server of one model."""

_LOOK_AGAIN = 1.0
"""Seconds until it is looked again whether a request in the background is over."""
_held: ContextVar[list[Member] | None] = ContextVar("befit_held_models", default=None)


class Loader(Protocol):
    """Brings models into memory. Its methods block, and are called on other threads than the event loop's.

    library: what clients may do with stored models, if anything; pull: whether that is also to fetch some.
    """

    @property
    def library(self) -> Library | None: ...  # noqa: D102 - see above

    @property
    def pull(self) -> bool: ...  # noqa: D102 - see above

    def find(self, name: str, *, fetch: bool, check: Callable[[], None]) -> Member | None:
        """A model that is not listed, by a name that a request has; None where requests get listed ones only.

        fetch: it may be fetched, if that is allowed at all; `check` is called now and then, and what it raises ends
        that. Raises ModelNotFound, and what fetching raises.
        """
        ...

    def rows(self) -> list[ModelRow]:
        """The stored models that requests may name beside those that are listed."""
        ...

    def load(self, member: Member, taken: int, *, exact: bool) -> Loaded:
        """Load it beside models that take so many bytes. exact: neither round weights nor shorten the context to make
        it fit.

        Raises DoesNotFit, and what loading raises.
        """
        ...


class Fleet:
    """The models served; requests that name none get the first. `draining`: nothing new is admitted.

    loader: brings models into memory; without one, what is there stays. Raises ConfigError where two have one name.
    """

    def __init__(self, members: Sequence[Member], loader: Loader | None = None, *, preload: bool = False) -> None:
        self.listed = list(members)
        self.loader = loader
        self.draining = False
        self._preload = preload
        self._members: dict[str, Member] = {}
        for member in members:
            for name in member.names:
                if name in self._members:
                    raise ConfigError(
                        f"{self._members[name].ref} and {member.ref} would both be called {name!r}; give the first "
                        "another name with --served-name, or copy one of them with befit cp."
                    )
                self._members[name] = member
        self._changing = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    # -- for requests ---------------------------------------------------------------------------------------------

    async def service(self, asked: str | None = None) -> Service:
        """The model of this name, loaded if it is not; the first where none was asked for.

        It stays in memory until the request is over. Raises ModelNotFound, Overloaded where it does not fit beside
        those that are in use, and what loading raises.
        """
        member = self._members.get(asked or "")
        if member is None:
            found = await self._find(asked, fetch=True)
            member = self._members.setdefault(found.name, found)
        held = _held.get()
        if held is not None:
            member.users += 1
            held.append(member)
        if member.loaded is None:
            await self._load(member)
        assert member.loaded is not None
        return member.loaded.service

    async def member(self, asked: str | None) -> Member:
        """The model of this name, in memory or not; nothing is fetched. Raises ModelNotFound."""
        return self._members.get(asked or "") or await self._find(asked, fetch=False)

    def keep(self, member: Member, keep_alive: float | None) -> bool:
        """Set how long it stays in memory after its last request, None for ever; False where that has no effect."""
        if self.loader is None:
            return False
        member.keep_alive = keep_alive
        self._watch(member, keep_alive if member.idle else None)  # else when the last request is over
        return True

    async def _find(self, asked: str | None, *, fetch: bool) -> Member:
        if not asked or asked in PLACEHOLDERS:
            return self.listed[0]
        plain = asked.removesuffix(":latest")
        if plain in self._members:
            return self._members[plain]
        found = None
        if self.loader is not None:
            found = await asyncio.to_thread(self.loader.find, asked, fetch=fetch, check=self._check_open)
        if found is None:
            known = ", ".join(self._members)
            raise ModelNotFound(f"Model {asked[:200]!r} is not served here; this server has: {known}.")
        place = found.path.resolve()  # it may be served under another name
        return next((member for member in self.members if member.path.resolve() == place), found)

    def _check_open(self) -> None:
        if self.draining:
            raise Overloaded("The server is shutting down and fetches no models; use another one.")

    @property
    def members(self) -> list[Member]:
        """The models listed, and those beside them that are in memory."""
        return list(dict.fromkeys([*self.listed, *self._members.values()]))

    @property
    def services(self) -> list[Service]:
        """Those in memory."""
        return [member.loaded.service for member in self.members if member.loaded is not None]

    @property
    def alive(self) -> bool:
        """Whether every engine runs."""
        return all(service.engine.alive for service in self.services)

    # -- in and out of memory -------------------------------------------------------------------------------------

    async def _load(self, member: Member) -> None:
        try:
            async with self._changing:
                if member.loaded is None:
                    await self._load_alone(member)
        finally:
            self._forget(member)

    async def _load_alone(self, member: Member) -> None:
        if self.loader is None or self.draining:
            raise Overloaded(f"{member.name} is not in memory, and the server loads no models now; use another one.")
        began = time.monotonic()
        loaded = await self._fitted(self.loader, member)
        await loaded.service.engine.start()
        member.loaded, member.keep_alive, member.used = loaded, member.default, time.monotonic()
        for name in member.names:
            self._members[name] = member
        self._watch(member, member.keep_alive)
        log.info("loaded %s in %.1f s (%.2f GB)", member.name, time.monotonic() - began, loaded.memory / 1e9)

    async def _fitted(self, loader: Loader, member: Member) -> Loaded:
        """Load it, with idle models going as far as that is needed."""
        while True:
            others = [one for one in self.members if one.loaded is not None]
            idle = min((one for one in others if one.idle), key=lambda one: one.used, default=None)
            taken = sum(one.loaded.memory for one in others if one.loaded is not None)
            try:
                return await asyncio.to_thread(loader.load, member, taken, exact=idle is not None)
            except DoesNotFit as error:
                if idle is None:
                    beside = ", ".join(f"{one.name} ({one.loaded.memory / 1e9:.2f} GB)" for one in others if one.loaded)
                    busy = f" In use are: {beside}; try again when their requests are over." if beside else ""
                    raise Overloaded(f"{error.message}{busy}") from error
            if idle.idle:  # still: loading was tried meanwhile
                log.info("unloading %s to make room for %s", idle.name, member.name)
                await self._unload_alone(idle)

    async def unload(self, member: Member) -> bool:
        """Take it out of memory; False if requests use it."""
        async with self._changing:
            if not member.idle:
                return False
            await self._unload_alone(member)
            return True

    async def _unload_alone(self, member: Member) -> None:
        loaded, member.loaded = member.loaded, None
        self._watch(member, None)
        self._forget(member)
        if loaded is not None:
            await loaded.service.engine.stop()
            await asyncio.to_thread(loaded.close)
            log.info("unloaded %s", member.name)

    def _forget(self, member: Member) -> None:
        """Drop a model that is not listed, not in memory and not waited for."""
        if not member.listed and member.loaded is None and member.users == 0:
            for name in member.names:
                if self._members.get(name) is member:
                    del self._members[name]

    def _watch(self, member: Member, seconds: float | None) -> None:
        """Look in so many seconds whether it should go; None: never."""
        if member.timer is not None:
            member.timer.cancel()
        loop = asyncio.get_running_loop()
        member.timer = loop.call_later(seconds, self._expire, member) if seconds is not None else None

    def _expire(self, member: Member) -> None:
        member.timer = None
        left = member.expires
        if member.loaded is None or left is None or member.users:
            return
        if left > 0 or not member.idle:
            self._watch(member, left or _LOOK_AGAIN)
            return
        task = asyncio.ensure_future(self._unload_expired(member))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _unload_expired(self, member: Member) -> None:
        async with self._changing:
            if member.loaded is not None and member.idle and member.expires == 0:
                await self._unload_alone(member)

    def release(self, member: Member) -> None:
        """A request that it was given to is over."""
        member.users -= 1
        member.used = time.monotonic()
        if member.users == 0:
            if member.timer is None and member.keep_alive is not None and member.loaded is not None:
                self._watch(member, member.keep_alive)
            self._forget(member)

    # -- for the server -------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start the engines of the models in memory, and load the others if that was asked for."""
        for member in self.listed:
            if member.loaded is not None:
                member.keep_alive = member.default
                await member.loaded.service.engine.start()
            elif self._preload:
                await self._load(member)

    async def drain(self, timeout: float | None) -> None:
        """Admit nothing more and wait, at most so many seconds, for what was admitted."""
        self.draining = True
        async with self._changing:
            await asyncio.gather(*(service.engine.drain(timeout) for service in self.services))

    async def stop(self) -> None:
        """Abort what is left, end the engines, and free the memory."""
        async with self._changing:
            for member in self.members:
                await self._unload_alone(member)


class Holding:
    """ASGI middleware: models that a request was given stay in memory until its answer has been sent."""

    def __init__(self, app: ASGIApp, fleet: Fleet) -> None:
        self.app = app
        self.fleet = fleet

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Note what the request is given."""
        held: list[Member] = []
        token = _held.set(held)
        try:
            await self.app(scope, receive, send)
        finally:
            _held.reset(token)
            for member in held:
                self.fleet.release(member)
