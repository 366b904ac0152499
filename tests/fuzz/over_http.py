"""Targets: bodies of requests of every protocol, and bytes on a connection; behind them the tests' fake engine."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from common import HI, One, document, dumped, fields

from support.files import TEMPLATE

PATHS = (
    "/v1/completions", "/v1/chat/completions", "/v1/messages", "/v1/messages/count_tokens", "/v1/responses",
    "/v1/embeddings", "/v1/models", "/tokenize", "/detokenize", "/completion", "/infill", "/apply-template",
    "/api/chat", "/api/generate", "/api/embed", "/api/show", "/generate", "/generate_stream", "/",
)  # fmt: skip


def make_app() -> tuple[Any, Any]:
    from api.conftest import FakeEngine
    from befit.api.app import create_app
    from befit.api.chat import ChatTemplate

    engine = FakeEngine()
    template = ChatTemplate(TEMPLATE, engine.model.tokenizer, source="the tests'")
    return engine, create_app(engine, served_name="fake", chat_template=template)


def make_request() -> One:
    engine, app = make_app()
    loop = asyncio.new_event_loop()

    async def ask(path: str, body: bytes) -> tuple[int, bytes]:
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
            "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "", "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2), "headers": [(b"host", b"befit"), (b"content-type", b"application/json")],
        }  # fmt: skip
        sent: list[Mapping[str, Any]] = []
        waiting = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> dict[str, Any]:
            if waiting:
                return waiting.pop()
            await asyncio.sleep(3600)
            raise AssertionError

        async def send(message: Mapping[str, Any]) -> None:
            sent.append(message)

        await app(scope, receive, send)
        return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])

    def take(value: Any) -> None:
        given = fields(value, path="", body={})
        if given.path in PATHS:
            status, answer = loop.run_until_complete(
                asyncio.wait_for(ask(given.path, json.dumps(given.body).encode()), 5)
            )
            assert status < 500, (status, answer)
            assert engine.open == 0

    return document(take)


def request_seeds() -> Iterator[bytes]:
    simple = {
        "model": "fake",
        "prompt": "ab",
        "input": "hi",
        "messages": HI,
        "max_tokens": 4,
        "inputs": "hi",
        "tokens": [65],
    }
    simple |= {"input_prefix": "a", "input_suffix": "b", "content": "x"}
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    asked = {
        "stop": ["x"],
        "logprobs": True,
        "top_logprobs": 2,
        "seed": 1,
        "n": 2,
        "tools": [tool],
        "stream": True,
        "suffix": "b",
    }
    for path in PATHS:
        yield from dumped({"path": path, "body": simple}, {"path": path, "body": {**simple, **asked}})


REQUEST_WORDS = (
    *PATHS, "stream", "stream_options", "include_usage", "n", "best_of", "echo", "logit_bias", "50256", "stop",
    "logprobs", "role", "content", "system", "user", "assistant", "tool", "developer", "text", "type", "image_url",
    "tool_calls", "tool_call_id", "function_call", "name", "response_format", "json_schema", "schema", "guided_regex",
    "(a+)+$", "options", "num_predict", "format", "json", "raw", "images", "think", "parameters", "max_new_tokens",
    "details", "input_extra", "n_predict", "grammar", "root ::= [", "<|begin|>", "tools", "tool_choice",
)  # fmt: skip


def make_http() -> One:
    """Bytes on a connection, to the server as it runs."""
    import uvloop

    from befit.api.listener import bind
    from befit.api.server import Server

    listener = bind("127.0.0.1", 0)
    port = listener.getsockname()[1]
    started = threading.Event()
    server = Server(make_app()[1], 1.0, started.set)

    async def serve() -> None:
        await server.fleet.start()
        await server.serve(sockets=[listener])

    threading.Thread(target=lambda: uvloop.run(serve()), daemon=True).start()
    assert started.wait(30)

    def ask(data: bytes) -> bytes:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=5) as connection,
            contextlib.suppress(ConnectionError),
        ):
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            answer = b""
            while more := connection.recv(1 << 16):
                answer += more
            return answer
        return b""

    def one(data: bytes) -> None:
        answer = ask(data)
        assert not answer or answer.startswith(b"HTTP/1.1 "), answer[:200]
        assert not answer.startswith(b"HTTP/1.1 5"), answer[:500]
        healthy = ask(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert healthy.startswith(b"HTTP/1.1 200"), healthy[:200]

    return one


def http_seeds() -> Iterator[bytes]:
    body = json.dumps({"model": "fake", "prompt": "ab", "max_tokens": 3}).encode()
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    yield head + b"Content-Length: %d\r\n\r\n" % len(body) + body
    yield head + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    yield head + b"Content-Length: 1\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n" + body
    yield head + b"Expect: 100-continue\r\nAuthorization: Bearer x\r\nX-Request-Id: \x00\r\n\r\n"
    yield b"GET /health HTTP/1.1\r\nHost: x\r\n\r\nGET /metrics HTTP/1.0\r\n\r\n"
    yield b"OPTIONS * HTTP/1.1\r\nOrigin: http://a\r\nAccess-Control-Request-Method: POST\r\nCookie: a=b\r\n\r\n"
    yield b"GET /%00/..%2f?a=%ff&b=\xff HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
