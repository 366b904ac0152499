"""The engine for servers: its loop runs in a thread of its own; requests go in and deltas come out on an asyncio loop.

Requests and aborts cross to the thread through one inbox under a condition, on which an idle engine sleeps. What a step
added crosses back all together, when the next step is about to run: its text is made on the event loop, while the
backend computes without the GIL. What only the text shows to be over goes back through the inbox. The event loop keeps
a stream per request, so that even a crash of the thread reaches every consumer.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import abc, deque
from dataclasses import replace
from typing import TYPE_CHECKING

from befit.engine.clock import ThreadClock
from befit.engine.core import Engine
from befit.engine.emit import End, Output
from befit.engine.observe import EngineObserver, EngineStats
from befit.engine.outputs import Delta
from befit.engine.pooling import Pooling
from befit.engine.request import Request, build_request
from befit.errors import BefitError, EngineDead, InvalidRequest, Overloaded
from befit.sampling import SamplingParams

if TYPE_CHECKING:
    from befit.engine.load import LoadedModel

log = logging.getLogger("befit.engine")

MOST_BEHIND = 64
"""Steps whose texts are still to be made, at which the engine waits: what it computes may be over already."""


class _Stream:
    """One request as the event loop sees it: deltas not consumed yet, and continuations that have not ended.

    With one consumer it costs half of what an asyncio.Queue does.
    """

    __slots__ = ("_waiter", "deltas", "open", "request")

    def __init__(self, request: Request) -> None:
        self.request = request
        self.open = set(range(request.params.n))
        self.deltas: deque[Delta] = deque()
        self._waiter: asyncio.Future[None] | None = None

    def put(self, delta: Delta) -> None:
        """One more for the consumer."""
        if delta.finish_reason is not None:
            self.open.discard(delta.index)
        self.deltas.append(delta)
        if self._waiter is not None:
            if not self._waiter.done():
                self._waiter.set_result(None)
            self._waiter = None

    def more(self) -> asyncio.Future[None]:
        """Done when there are deltas; there are none now."""
        self._waiter = asyncio.get_running_loop().create_future()
        return self._waiter


class AsyncEngine:
    """Many requests over one model, for one event loop: the one that `start` runs on."""

    def __init__(self, model: LoadedModel, observer: EngineObserver | None = None) -> None:
        self.model = model
        self._core = Engine(model, observer)
        self._wake = threading.Condition()
        # A request to add, the id of one to abort, or sequences to end.
        self._inbox: deque[Request | str | list[End]] = deque()
        self._clock: ThreadClock | None = None
        self._handed_over = self._delivered = 0  # what steps added: by the engine's thread, on the event loop
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
        self._clock = ThreadClock()
        self._thread = threading.Thread(target=self._run, name="befit-engine", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether requests can be served."""
        return self._thread is not None and self._thread.is_alive() and self._core.alive and not self._stopping

    @property
    def idle(self) -> bool:
        """Whether no request is under way."""
        return not self._streams

    @property
    def observer(self) -> EngineObserver | None:
        """Who is told about requests and steps."""
        return self._core.observer.observer

    @observer.setter
    def observer(self, observer: EngineObserver | None) -> None:
        self._core.observer.observer = observer

    def stats(self) -> EngineStats:
        """Counts at this moment."""
        of_loop = self._clock.seconds() if self._clock is not None else None
        cpu_seconds = of_loop + self._core.cpu_seconds if of_loop is not None else None
        return replace(self._core.stats(), cpu_seconds=cpu_seconds)

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
        stream = self._streams[request.id] = _Stream(request)
        self._post(request)
        left = params.n
        try:
            while left:
                if not stream.deltas:
                    await stream.more()
                delta = stream.deltas.popleft()
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

    def _post(self, item: Request | str | list[End]) -> None:
        with self._wake:
            self._inbox.append(item)
            self._wake.notify()

    def _deliver(self, outputs: list[Output]) -> None:
        try:
            events, ends = self._core.emitter.emit(outputs)
        except Exception as error:
            log.exception("The texts of a step failed.")
            self._core.alive = False
            self._deliver_crash(repr(error))
            return
        with self._wake:
            self._delivered += 1
            if ends:
                self._inbox.append(ends)
            self._wake.notify()
        for request, delta in events:
            stream = self._streams.get(request.id)
            if stream is not None and stream.request is request:
                stream.put(delta)
        self._check_drained()

    def _deliver_error(self, request: Request, error: Exception) -> None:
        """End a request's stream with an error."""
        stream = self._streams.get(request.id)
        if stream is not None and stream.request is request:
            for index in sorted(stream.open):
                stream.put(Delta(index, "", [], finish_reason="error", error=error))
        self._check_drained()

    def _deliver_crash(self, why: str) -> None:
        dead = EngineDead(f"The engine has stopped: {why}. Restart it to serve requests.")
        for stream in self._streams.values():
            self._deliver_error(stream.request, dead)

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
        core = self._core
        with self._wake:
            while not self._stopping and (self._far_ahead or not (self._inbox or core.has_work)):
                self._wake.wait()
            inbox, stopping = list(self._inbox), self._stopping
            self._inbox.clear()
        for item in inbox:
            self._take(item)
        if stopping:
            core.end_all()
        else:
            core.compute(self._give_out)
        if not core.has_work:
            self._give_out()
        return not stopping

    @property
    def _far_ahead(self) -> bool:
        return self._handed_over - self._delivered >= MOST_BEHIND

    def _take(self, item: Request | str | list[End]) -> None:
        if isinstance(item, str):
            self._core.end_request(item)
        elif isinstance(item, list):
            for sequence, suspect in item:
                self._core.end_sequence(sequence, suspect=suspect)
        else:
            try:
                self._core.add(item)
            except BefitError as error:
                self._hand_over(self._deliver_error, item, error)

    def _give_out(self) -> None:
        outputs = self._core.take_outputs()
        if outputs:
            self._handed_over += 1
            self._hand_over(self._deliver, outputs)

    def _hand_over(self, deliver: abc.Callable[..., None], *args: object) -> None:
        """Call `deliver` on the event loop. When that is closed, nobody is left to serve and the engine ends."""
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(deliver, *args)
        except RuntimeError:
            self._stopping = True
