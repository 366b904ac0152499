"""The engine for servers: its loop runs in a thread of its own; requests go in and deltas come out on an asyncio loop.

Requests and aborts cross to the thread through one inbox under a condition, on which an idle engine sleeps. Deltas
cross back once per step, all together. The event loop keeps a stream per request, so that even a crash of the thread
reaches every consumer.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import abc, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from befit.engine.core import Engine, Event
from befit.engine.observe import EngineObserver, EngineStats
from befit.engine.outputs import Delta
from befit.engine.pooling import Pooling
from befit.engine.request import Request, build_request
from befit.errors import BefitError, EngineDead, InvalidRequest, Overloaded
from befit.sampling import SamplingParams

if TYPE_CHECKING:
    from befit.engine.load import LoadedModel

log = logging.getLogger("befit.engine")


@dataclass(slots=True)
class _Stream:
    """One request as the event loop sees it: deltas not consumed yet, and continuations that have not ended."""

    queue: asyncio.Queue[Delta]
    open: set[int]


class AsyncEngine:
    """Many requests over one model, for one event loop: the one that `start` runs on."""

    def __init__(self, model: LoadedModel, observer: EngineObserver | None = None) -> None:
        self.model = model
        self._core = Engine(model, observer)
        self._wake = threading.Condition()
        self._inbox: deque[Request | str] = deque()  # a request to add, or the id of one to abort
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._streams: dict[str, _Stream] = {}
        self._draining = False
        self._drained = asyncio.Event()

    # -- on the event loop ----------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start the thread. Once started, an engine serves until `stop`, and then never again."""
        if self._thread is not None:
            return
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="befit-engine", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether requests can be served."""
        return self._thread is not None and self._thread.is_alive() and self._core.alive and not self._stopping

    @property
    def observer(self) -> EngineObserver | None:
        """Who is told about requests and steps, on the engine's thread."""
        return self._core.observer.observer

    @observer.setter
    def observer(self, observer: EngineObserver | None) -> None:
        self._core.observer.observer = observer

    def stats(self) -> EngineStats:
        """Counts at this moment."""
        return self._core.stats()

    async def generate(
        self,
        prompt_ids: abc.Sequence[int],
        params: SamplingParams,
        *,
        request_id: str | None = None,
        priority: int = 0,
        cache_salt: str = "",
        pooling: Pooling | None = None,
    ) -> abc.AsyncGenerator[Delta, None]:
        """Continue a prompt, or pool its hidden states; ends after every continuation's delta with a finish_reason.

        The first `__anext__` raises InvalidRequest, ContextExceeded, Overloaded or EngineDead. Later errors come as a
        delta with `error`. Closing or cancelling the iterator aborts the request.
        """
        self._check_open()
        request = build_request(
            self.model,
            prompt_ids,
            params,
            request_id=request_id,
            priority=priority,
            cache_salt=cache_salt,
            pooling=pooling,
        )
        if request.id in self._streams:
            raise InvalidRequest(
                f"request_id {request.id!r} is in use by a running request; choose another.", "request_id"
            )
        stream = _Stream(asyncio.Queue(), set(range(params.n)))
        self._streams[request.id] = stream
        self._post(request)
        left = params.n
        try:
            while left:
                delta = await stream.queue.get()
                if delta.finish_reason is not None:
                    left -= 1
                yield delta
        finally:
            if self._streams.pop(request.id, None) is not None and stream.open:
                self._post(request.id)
            self._check_drained()

    async def drain(self, timeout: float | None = None) -> bool:
        """Admit nothing more and wait for what was admitted; False if that takes longer than `timeout` seconds."""
        self._draining = True
        self._check_drained()
        try:
            await asyncio.wait_for(self._drained.wait(), timeout)
        except TimeoutError:
            return False
        return True

    async def stop(self) -> None:
        """Abort what is left (finish_reason "abort") and end the thread after the step that it is in."""
        self._draining = True
        with self._wake:
            self._stopping = True
            self._wake.notify()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)
            # What the thread posted last is delivered before this returns.
            await asyncio.sleep(0)

    def _check_open(self) -> None:
        if not self.alive:
            raise EngineDead("The engine is not running; start it, or restart the server, to serve requests.")
        if self._draining:
            raise Overloaded("The server is shutting down and takes no new requests; use another one.")
        waiting = len(self._core.scheduler.waiting) + len(self._inbox)
        if waiting >= self.model.config.max_queue:
            raise Overloaded(
                f"{waiting} requests are waiting and the queue holds {self.model.config.max_queue}; try again later."
            )

    def _check_drained(self) -> None:
        if self._draining and not any(stream.open for stream in self._streams.values()):
            self._drained.set()

    def _post(self, item: Request | str) -> None:
        with self._wake:
            self._inbox.append(item)
            self._wake.notify()

    def _deliver(self, events: list[Event]) -> None:
        for request, delta in events:
            stream = self._streams.get(request.id)
            if stream is not None:
                if delta.finish_reason is not None:
                    stream.open.discard(delta.index)
                stream.queue.put_nowait(delta)
        self._check_drained()

    def _deliver_crash(self, why: str) -> None:
        dead = EngineDead(f"The engine has stopped: {why}. Restart it to serve requests.")
        for stream in self._streams.values():
            for index in sorted(stream.open):
                stream.queue.put_nowait(Delta(index, "", [], finish_reason="error", error=dead))
            stream.open.clear()
        self._check_drained()

    # -- on the engine's thread -----------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while self._core.alive and self._serve():
                pass
            if not self._core.alive:  # whoever came in during the last step is still to be told
                self._hand_over(self._deliver_crash, "too many failed steps")
        except BaseException as error:
            log.exception("The engine loop ended.")
            self._core.alive = False
            self._hand_over(self._deliver_crash, repr(error))

    def _serve(self) -> bool:
        """Take what came in and compute one step; False when the engine should end."""
        with self._wake:
            while not self._inbox and not self._core.has_work and not self._stopping:
                self._wake.wait()
            inbox, stopping = list(self._inbox), self._stopping
            self._inbox.clear()
        events: list[Event] = []
        for item in inbox:
            self._take(item, events)
        events += self._core.abort_all() if stopping else self._core.step()
        return (not events or self._hand_over(self._deliver, events)) and not stopping

    def _take(self, item: Request | str, events: list[Event]) -> None:
        if isinstance(item, str):
            self._core.abort(item)
            return
        try:
            self._core.add(item)
        except BefitError as error:
            events += [(item, Delta(i, "", [], finish_reason="error", error=error)) for i in range(item.params.n)]

    def _hand_over(self, deliver: abc.Callable[..., None], *args: object) -> bool:
        """Call `deliver` on the event loop; False when that loop is closed and nobody is left to serve."""
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(deliver, *args)
        except RuntimeError:
            return False
        return True
