"""Many requests at once: each starts in a turn of the event loop of its own."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from befit.api.middleware import RequestScope


async def test_between_two_requests_that_start_the_event_loop_turns_to_others() -> None:
    turn = 0
    started: list[int] = []
    loop = asyncio.get_running_loop()

    def tick() -> None:
        nonlocal turn
        turn += 1
        if len(started) < 20:
            loop.call_soon(tick)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        started.append(turn)

    def scope(method: str) -> dict[str, Any]:
        return {"type": "http", "method": method, "path": "/", "headers": []}

    async def receive() -> Message:
        raise AssertionError("nobody reads")

    async def send(message: Message) -> None:
        raise AssertionError("nobody answers")

    around = RequestScope(app, on_error=lambda error, path: Response(status_code=500))
    loop.call_soon(tick)
    await asyncio.gather(*(around(scope("POST"), receive, send) for _ in range(20)))
    assert len(set(started)) == 20
    started.clear()
    await asyncio.gather(*(around(scope("GET"), receive, send) for _ in range(5)))
    assert len(set(started)) == 1
