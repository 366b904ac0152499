"""A streaming client of OpenAI-compatible endpoints that costs the machine it measures on little.

One connection a request, read by an `asyncio.Protocol` with httptools' parser: an event of a stream costs a few
microseconds, and a thousand streams at once are no trouble. Kinds of errors, as results count them:

    connect_failed    no connection
    connection_lost   it broke, or the answer ended, before the stream's [DONE]
    timeout           not over in time
    http_NNN          a status other than 200
    bad_http          the answer is not HTTP/1
    not_a_stream      200 with something else than text/event-stream
    bad_event         an event that is not a JSON object, or whose choices are not what the API has
    error_event       the server told of an error in the stream
    no_output         the stream is whole, but no event has a choice
    bad_usage         usage whose numbers cannot be
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import httptools

from befit.bench.metrics import Record
from befit.bench.sse import EventParser
from befit.bench.target import Target

_KEPT = 2000  # bytes of an answer that is no stream, kept for its message
_LINGER = 0.5  # seconds from [DONE] to the end of the HTTP message


async def send(target: Target, request: bytes, record: Record) -> Record:
    """Send one request and note what happens in `record`. Failures are noted, not raised."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()
    record.sent = time.perf_counter()
    try:
        async with asyncio.timeout(target.timeout):
            transport, _ = await loop.create_connection(
                lambda: _Stream(request, record, done, chat=target.chat, keep_text=target.keep_text),
                target.address,
                target.port,
                ssl=target.tls,
                server_hostname=target.host if target.tls else None,
            )
            try:
                await done
            finally:
                transport.abort()
    except TimeoutError:
        _fail(record, "timeout", f"not over after {target.timeout:g} s, with {len(record.tokens)} events of output")
    except OSError as error:
        _fail(record, "connect_failed", error.strerror or str(error))
    if not record.end:
        record.end = time.perf_counter()
    return record


def _fail(record: Record, kind: str, detail: str) -> None:
    """The first failure is the one that counts."""
    if not record.error:
        record.error, record.detail = kind, detail


class _Stream(asyncio.Protocol):
    """One exchange. httptools calls the on_… methods from feed_data."""

    def __init__(
        self, request: bytes, record: Record, done: asyncio.Future[None], *, chat: bool, keep_text: bool
    ) -> None:
        self.request = request
        self.record = record
        self.done = done
        self.chat = chat
        self.keep_text = keep_text
        self.parser = httptools.HttpResponseParser(self)
        self.status = 0
        self.is_stream = False
        self.concluded = False  # [DONE] has come, or a failure: the record is complete
        self.usage: Any = None
        self.events = EventParser()
        self.rest = b""
        self.now = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Part of asyncio.Protocol."""
        transport.write(self.request)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        """Part of asyncio.Protocol. Everything in one read has arrived at one time."""
        if self.done.done():
            return
        self.now = time.perf_counter()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError as error:
            if not self.concluded:
                cause = error.__context__ if isinstance(error, httptools.HttpParserCallbackError) else error
                self._end("bad_http", repr(cause))

    def connection_lost(self, exc: Exception | None) -> None:
        """Part of asyncio.Protocol."""
        if not self.concluded:
            self.now = time.perf_counter()
            if self.status and self.status != 200:
                self.on_message_complete()  # an error without a length ends with its connection
            else:
                self._end("connection_lost", str(exc or f"closed after {len(self.record.tokens)} events of output"))
        self._release()

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header of the answer."""
        if name.lower() == b"content-type":
            self.is_stream = value.split(b";")[0].strip().lower() == b"text/event-stream"

    def on_headers_complete(self) -> None:
        """All headers have come."""
        self.status = self.parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        """A part of the body, without its framing."""
        if self.concluded:
            return
        if self.status != 200 or not self.is_stream:
            self.rest = (self.rest + body)[:_KEPT]
            return
        for data in self.events.feed(body):
            problem = self._conclude() if data == b"[DONE]" else self._event(data)
            if problem:
                self._end(*problem)
            if self.concluded:
                return

    def on_message_complete(self) -> None:
        """The whole answer has come."""
        if self.status == 100:
            return
        if not self.concluded and self.status != 200:
            self._end(f"http_{self.status}", _message(self.rest))
        elif not self.concluded and not self.is_stream:
            self._end("not_a_stream", _message(self.rest))
        elif not self.concluded:
            self._end("connection_lost", f"the answer ended without [DONE], after {len(self.record.tokens)} events")
        self._release()

    def _event(self, data: bytes) -> tuple[str, str] | None:
        """Note one event; a failure's kind and detail when it is one."""
        record = self.record
        try:
            event = json.loads(data.decode())
            choices = event.get("choices")
            if choices:
                choice = choices[0]
                if self.chat:
                    delta = choice.get("delta") or {}
                    text = delta.get("content") or delta.get("reasoning_content") or delta.get("reasoning")
                    content = text or delta.get("tool_calls")
                else:
                    text = content = choice.get("text")
                if content:
                    record.tokens.append(self.now)
                    if self.keep_text and text:
                        record.text += text
                record.last = self.now
                record.finish_reason = choice.get("finish_reason") or record.finish_reason
            usage = event.get("usage")
            error = event.get("error")
        except (ValueError, AttributeError, TypeError, LookupError) as problem:
            return "bad_event", f"{data[:200]!r}: {problem!r}"
        if error:
            return "error_event", str(error.get("message", error) if isinstance(error, dict) else error)[:_KEPT]
        if usage:
            self.usage = usage
        return None

    def _conclude(self) -> tuple[str, str] | None:
        """The stream is whole: count its tokens. A failure's kind and detail when they cannot be."""
        record = self.record
        if not record.last:
            return "no_output", "no event before [DONE] has a choice"
        if self.usage is None:
            record.counted, record.output_tokens = False, len(record.tokens)
        elif problem := _read_usage(self.usage, record):
            return "bad_usage", problem
        record.end, self.concluded = self.now, True
        # The last bytes of the HTTP message follow at once; a server that keeps them back is not waited for.
        asyncio.get_running_loop().call_later(_LINGER, self._release)
        return None

    def _end(self, kind: str, detail: str) -> None:
        """The request has failed."""
        _fail(self.record, kind, detail)
        self.record.end, self.concluded = self.now, True
        self._release()

    def _release(self) -> None:
        """Let `send` go on."""
        if not self.done.done():
            self.done.set_result(None)


def _read_usage(usage: Any, record: Record) -> str:
    """Take the counts into the record; what is wrong with them, or nothing."""
    if not isinstance(usage, dict):
        return f"usage is {usage!r}"
    prompt, output = usage.get("prompt_tokens"), usage.get("completion_tokens")
    details = usage.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else None
    for name, count, least in (
        ("prompt_tokens", prompt, 0),
        ("completion_tokens", output, 1 if record.tokens else 0),
        ("cached_tokens", 0 if cached is None else cached, 0),
    ):
        if type(count) is not int or count < least:
            return f"usage.{name} is {count!r} after {len(record.tokens)} events of output"
    record.prompt_tokens, record.output_tokens, record.cached_tokens = prompt, output or 0, cached
    return ""


def _message(body: bytes) -> str:
    """The message of an error's body, or the body."""
    try:
        error = json.loads(body)["error"]
        return str(error["message"] if isinstance(error, dict) else error)
    except (ValueError, LookupError, TypeError):
        return body.decode("utf-8", "replace").strip()
