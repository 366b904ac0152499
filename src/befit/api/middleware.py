"""What surrounds each request: its id (from `x-request-id` or made up, and sent back) and the last catch of errors."""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import Awaitable, Callable
from contextvars import ContextVar

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

request_id: ContextVar[str] = ContextVar("befit_request_id", default="-")

_ACCEPTED = re.compile(rb"[\x21-\x7e]{1,128}")


class RequestScope:
    """ASGI middleware around everything: gives each request its id, and turns what nobody caught into an answer."""

    def __init__(self, app: ASGIApp, on_error: Callable[[BaseException, str], Response]) -> None:
        self.app = app
        self.on_error = on_error
        self._line = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Set `request_id` for the request and put it into the response's headers."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        number = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
        if not _ACCEPTED.fullmatch(number):
            number = uuid.uuid4().hex.encode()
        request_id.set(number.decode())
        if scope["method"] == "POST":
            # Parsing and tokenising take a millisecond or two: when hundreds arrive at once, they start one after the
            # other, and in between the event loop turns to the replies under way.
            async with self._line:
                await asyncio.sleep(0)
        started = False

        def send_with_id(message: Message) -> Awaitable[None]:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*message["headers"], (b"x-request-id", number)]
            return send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except Exception as error:
            if started:
                raise
            await self.on_error(error, scope["path"])(scope, receive, send_with_id)
