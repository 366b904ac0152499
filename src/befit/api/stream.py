"""Server-sent events: a response that writes each event as it comes and stops when the client does."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Protocol

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from befit.api.generation import ClientGoneError, while_connected

DONE = b"data: [DONE]\n\n"
_TOOL_MARKER = "<|tool_call_begin|>"


class Source(Protocol):
    """What events are made from."""

    async def aclose(self) -> None:
        """End it: nobody reads any more."""
        ...


class Detached:
    """The source of a stream that only looks on: closing it ends nothing."""

    async def aclose(self) -> None:
        """Nothing to end."""


class EventStream(Response):
    """`text/event-stream` from an async generator of bytes, each holding one or more whole events.

    The headers go out at once. When the stream or the client is done, `deltas`, which the events are made from, is
    closed; that aborts what still runs.
    """

    media_type = "text/event-stream"

    def __init__(
        self, events: AsyncGenerator[bytes, None], deltas: Source, headers: Mapping[str, str] | None = None
    ) -> None:
        self.events = events
        self.deltas = deltas
        self.status_code = 200
        self.background = None
        self.init_headers({"cache-control": "no-cache", "x-accel-buffering": "no", **(headers or {})})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the headers, then every event until the generator or the client is done."""
        try:
            await while_connected(receive, self._send_all(send))
        except ClientGoneError:
            pass
        finally:
            await self.events.aclose()
            await self.deltas.aclose()

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async for event in self.events:
            await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class LineStream(EventStream):
    """The same with lines of JSON, as Ollama streams."""

    media_type = "application/x-ndjson"


def split_tool_marker(text: str) -> tuple[str, str]:
    """(head, tail) of a chat delta, where a non-empty tail must be sent as a delta of its own.

    Some editor extensions look for `<|tool_call_begin|>` across deltas and drop the end of a delta that could be its
    start (`vector<`), yet keep a delta that is nothing but such a start (`<`).
    """
    at = text.rfind("<")
    if at <= 0 or not _TOOL_MARKER.startswith(text[at:]) or len(text) - at == len(_TOOL_MARKER):
        return text, ""
    return text[:at], text[at:]
