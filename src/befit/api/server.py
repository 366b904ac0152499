"""Running the application: uvicorn on a bound socket, and an orderly end.

The first SIGINT or SIGTERM stops admission and lets running requests finish (new ones get 503 with Retry-After, and
`/health` says so); the process then ends with 0. A second signal ends it at once, with 128 + the signal's number.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Generator
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn

from befit.api.listener import address, bind, raise_descriptor_limit

if TYPE_CHECKING:
    from fastapi import FastAPI

    from befit.api.models.fleet import Fleet

log = logging.getLogger(__name__)

FLUSH_SECONDS = 10
"""How long clients get, once nothing is generated any more, to read the rest of their answers."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Server(uvicorn.Server):
    """uvicorn with befit's signals: the first drains the engines, then closes; the second ends the process."""

    def __init__(self, app: FastAPI, drain_timeout: float | None, on_started: Callable[[], None]) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http="httptools",
                ws="none",
                lifespan="off",
                loop="uvloop",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_keep_alive=75,
                backlog=2048,
                timeout_graceful_shutdown=FLUSH_SECONDS,
            )
        )
        self.fleet: Fleet = app.state.fleet
        self._drain_timeout = drain_timeout
        self._on_started = on_started
        self._draining: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then say so."""
        await super().startup(sockets)
        self._on_started()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Take the signals while serving, and give them back without raising them again."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()

        def on_signal(number: int, frame: FrameType | None) -> None:
            if self.fleet.draining:
                os._exit(128 + number)
            self.fleet.draining = True
            loop.call_soon_threadsafe(self.drain)

        previous = {number: signal.signal(number, on_signal) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def drain(self) -> None:
        """Stop admitting, and close once the running requests are done."""
        self.fleet.draining = True
        log.info("draining: running requests finish, new ones are refused; a second signal ends the server at once")
        self._draining = asyncio.ensure_future(self._drain())

    async def _drain(self) -> None:
        try:
            await self.fleet.drain(self._drain_timeout)
        finally:
            self.should_exit = True


def serve(
    app: FastAPI,
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    sock: socket.socket | None = None,
    on_ready: Callable[[str], None] | None = None,
    drain_timeout: float | None = None,
) -> None:
    """Start the engines, serve until a signal, stop the engines. Returns when all is down.

    sock: one from `bind`, else host and port are bound here. on_ready gets the URL once requests are taken.
    drain_timeout: seconds that running requests get to finish; None is no limit. The process may open as many files
    afterwards as its hard limit allows.
    """
    import uvloop

    listener = sock or bind(host, port)
    raise_descriptor_limit()
    url = address(listener)

    def started() -> None:
        if on_ready is not None:
            on_ready(url)

    try:
        uvloop.run(_serve(Server(app, drain_timeout, started), listener))
    finally:
        listener.close()


async def _serve(server: Server, listener: socket.socket) -> None:
    await server.fleet.start()
    try:
        await server.serve(sockets=[listener])
    finally:
        await server.fleet.stop()
