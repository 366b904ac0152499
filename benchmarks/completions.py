"""A minimal streaming client of /v1/completions for the benchmarks: it costs the machine it measures on little.

Imported by serving.py and startup.py beside it.
"""

import asyncio
import http.client
import json
import sys
import time
from typing import NamedTuple
from urllib.parse import urlsplit


class Server(NamedTuple):
    name: str
    host: str
    port: int
    path: str
    model: str


class Answer(NamedTuple):
    """Times are of time.perf_counter."""

    sent: float
    first: float = 0.0
    last: float = 0.0
    end: float = 0.0
    tokens: int = 0
    error: str = ""


def connect(text):
    """The server that NAME=URL names, with the model that it says it has."""
    name, _, url = text.partition("=")
    parts = urlsplit(url)
    if not name or parts.scheme != "http" or not parts.hostname:
        sys.exit(f"--server is {text!r}; give NAME=http://HOST:PORT/v1.")
    host, port, path = parts.hostname, parts.port or 80, parts.path.rstrip("/")
    connection = http.client.HTTPConnection(host, port, timeout=10)
    try:
        connection.request("GET", f"{path}/models")
        model = json.load(connection.getresponse())["data"][0]["id"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        sys.exit(f"{name}: {url}/models does not answer with a model: {error!r}")
    finally:
        connection.close()
    return Server(name, host, port, path, model)


async def pieces(reader, chunked):
    """The body, as it comes in."""
    while True:
        if not chunked:
            data = await reader.read(65536)
        elif size := int((await reader.readline()).split(b";")[0], 16):
            data = (await reader.readexactly(size + 2))[:-2]
        else:
            return
        if not data:
            return
        yield data


async def exchange(server, body, sent):
    """Send one request and time its events. Raises OSError, EOFError, ValueError or LookupError when it goes wrong."""
    reader, writer = await asyncio.open_connection(server.host, server.port, limit=1 << 20)
    first = last = 0.0
    tokens, done, buffer = None, False, b""
    try:
        head = (
            f"POST {server.path}/completions HTTP/1.1\r\nHost: {server.host}:{server.port}\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body)
        status, *headers = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower().split("\r\n")
        chunked = any(h.startswith("transfer-encoding:") and "chunked" in h for h in headers)
        if status.split()[1] != "200":
            raise ValueError(status + ": " + b"".join([p async for p in pieces(reader, chunked)]).decode()[:300])
        async for piece in pieces(reader, chunked):
            now = time.perf_counter()
            *lines, buffer = (buffer + piece).split(b"\n")
            for line in lines:
                if not line.startswith(b"data:"):
                    continue
                if line[5:].strip() == b"[DONE]":
                    done = True
                    continue
                event = json.loads(line[5:])
                if "error" in event:
                    raise ValueError(str(event["error"]))
                if event.get("choices"):
                    first, last = first or now, now
                if event.get("usage"):
                    tokens = event["usage"]["completion_tokens"]
    finally:
        writer.close()
    if not done or not tokens or not first:
        raise ValueError(f"the stream ended without tokens, usage or [DONE] (usage: {tokens} tokens)")
    return Answer(sent, first, last, time.perf_counter(), tokens)
