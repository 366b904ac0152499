"""A server that speaks HTTP/1.1 and the OpenAI API by a script: a test tells what it sends, and in which pieces.

It counts a token a word, two a word with more than six letters, and two for what it puts in front of a prompt. Run as a
program, it listens on the port that it is given, until it is killed: a peer to start by a command.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

ADDED = 2
LOST = object()
"""In place of a piece: the connection breaks here."""
HANGS = object()
"""In place of a piece: nothing comes any more."""

Pieces = Sequence[Any]


def count_tokens(text: str) -> int:
    return sum(2 if len(word) > 6 else 1 for word in text.split())


def prompt_of(body: dict[str, Any]) -> str:
    return body["prompt"] if "prompt" in body else " ".join(message["content"] for message in body["messages"])


def usage_of(body: dict[str, Any], output: int, cached: int | None = None) -> dict[str, Any]:
    usage: dict[str, Any] = {"prompt_tokens": ADDED + count_tokens(prompt_of(body)), "completion_tokens": output}
    if cached is not None:
        usage["prompt_tokens_details"] = {"cached_tokens": cached}
    return usage


def event(value: Any) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def text_event(text: str, finish_reason: str | None = None) -> bytes:
    return event({"choices": [{"index": 0, "text": text, "finish_reason": finish_reason}]})


def chat_event(delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
    return event({"choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]})


DONE = b"data: [DONE]\n\n"


def head(status: str = "200 OK", content_type: str = "text/event-stream", length: int | None = None) -> bytes:
    framing = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    return f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\n{framing}\r\n\r\n".encode()


def chunked(*parts: bytes, end: bool = True) -> list[bytes]:
    return [b"%x\r\n%b\r\n" % (len(part), part) for part in parts] + ([b"0\r\n\r\n"] if end else [])


def stream(*events: bytes) -> list[bytes]:
    """A whole answer, an event a chunk."""
    return [head(), *chunked(*events)]


def whole(value: Any, status: str = "200 OK", content_type: str = "application/json") -> list[bytes]:
    body = json.dumps(value).encode() if not isinstance(value, bytes) else value
    return [head(status, content_type, len(body)), body]


def good(body: dict[str, Any]) -> Pieces:
    """What a server does that has nothing wrong with it: max_tokens words, then usage."""
    n = body["max_tokens"]
    if not body.get("stream"):
        return whole({"choices": [{"text": " w" * n}], "usage": usage_of(body, n)})
    if "messages" in body:
        events = [chat_event({"role": "assistant", "content": ""}), *(chat_event({"content": " w"}) for _ in range(n))]
        events.append(chat_event({}, "length"))
    else:
        events = [*(text_event(" w") for _ in range(n - 1)), text_event(" w", "length")]
    return stream(*events, event({"choices": [], "usage": usage_of(body, n, cached=1)}), DONE)


class FakeOpenAI:
    """Answers completions by `script(body)`; keeps every body in `bodies`, and how many it had at once in `most`."""

    def __init__(self, script: Callable[[dict[str, Any]], Pieces] = good, port: int = 0) -> None:
        self.script = script
        self.bodies: list[dict[str, Any]] = []
        self.metrics = b""
        self.most = self._now = 0
        self._loop = asyncio.new_event_loop()
        started = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(port, started), daemon=True)
        self._thread.start()
        assert started.wait(10)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def streamed(self) -> list[dict[str, Any]]:
        return [body for body in self.bodies if body.get("stream")]

    def close(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(10)

    def _run(self, port: int, started: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", port, backlog=2048))
        self.port = server.sockets[0].getsockname()[1]
        started.set()
        self._loop.run_forever()
        server.close()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._now += 1
        self.most = max(self.most, self._now)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            async for piece in self._answer(reader):
                if piece is LOST:
                    writer.transport.abort()
                elif piece is HANGS:
                    await reader.read()
                else:
                    writer.write(piece)
                    await writer.drain()
        self._now -= 1
        writer.close()

    async def _answer(self, reader: asyncio.StreamReader) -> AsyncIterator[Any]:
        request = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, path, _ = request[0].split()
        headers = dict(line.lower().split(": ", 1) for line in request[1:] if line)
        if method == "GET":
            pages = {
                "/health": whole({"status": "ok"}),
                "/v1/models": whole({"data": [{"id": "scripted"}]}),
                "/metrics": whole(self.metrics, content_type="text/plain"),
            }
            pieces: Pieces = pages.get(path, whole({}, "404 Not Found"))
        else:
            body = json.loads(await reader.readexactly(int(headers["content-length"])))
            self.bodies.append(body)
            pieces = self.script(body)
        for piece in pieces:
            yield piece
            await asyncio.sleep(0)


if __name__ == "__main__":
    FakeOpenAI(port=int(sys.argv[1]))
    threading.Event().wait()
