"""Clients that break off, stall or only sit there: what becomes of them, and that nobody else notices."""

from __future__ import annotations

import json
import os
import resource
import socket
import struct
import time
from collections.abc import Callable
from http.client import HTTPResponse
from typing import Any

import pytest

LONG = {"max_tokens": 3000, "stream": True}
IDLE = 10_000


def reset(sock: socket.socket) -> None:
    """Close with RST, as a client that died does."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def until(sock: socket.socket, mark: bytes, pause: float = 0) -> bytes:
    """What comes up to and with `mark`, 2,000 bytes at a time."""
    text = b""
    while mark not in text:
        piece = sock.recv(2000)
        assert piece, f"the connection ended after {text!r}"
        text += piece
        time.sleep(pause)
    return text


@pytest.mark.parametrize("phase", ["connected", "headers", "body", "sent", "streaming", "whole"])
@pytest.mark.parametrize("leave", [reset, socket.socket.close], ids=["reset", "close"])
def test_a_client_may_leave_at_any_time(
    server: Any, request_bytes: Callable[..., bytes], phase: str, leave: Callable[[socket.socket], None]
) -> None:
    expected = server.ask()
    sent = request_bytes(**{**LONG, "stream": phase != "whole"})
    cut = {"connected": 0, "headers": 30, "body": len(sent) - 5}.get(phase, len(sent))
    for _ in range(3):
        sock = server.connect()
        sock.sendall(sent[:cut])
        if phase == "streaming":
            until(sock, b"data: ")
        elif phase == "whole":
            time.sleep(0.05)
        leave(sock)
    server.until_idle()
    assert server.ask() == expected


def test_a_body_that_does_not_come_is_told_and_holds_nobody_up(
    impatient: Any, request_bytes: Callable[..., bytes]
) -> None:
    server = impatient
    sent = request_bytes()
    stalled = [server.connect() for _ in range(20)]
    for sock in stalled:
        sock.sendall(sent[:-5])
    assert server.ask() == server.ask()
    for sock in stalled:
        answer = HTTPResponse(sock)
        answer.begin()
        assert answer.status == 400
        assert b"of the body" in answer.read().lower()
        sock.close()
    server.until_idle()


def test_a_client_that_reads_nothing_is_let_go_alone(impatient: Any, request_bytes: Callable[..., bytes]) -> None:
    """What it did not read is bounded by the context, and the connection ends after a while."""
    server = impatient
    expected = server.ask()
    slow = server.connect(receive_buffer=4096)
    slow.sendall(request_bytes(max_tokens=3000, stream=True, logprobs=5))
    for _ in range(5):
        assert server.ask() == expected
    end = time.monotonic() + 30
    while _established(server.port) > 1:
        assert time.monotonic() < end, "the connection is still there"
        time.sleep(0.2)
    server.until_idle()
    assert server.ask() == expected
    slow.close()


def _established(port: int) -> int:
    """The connections that the server has, by /proc/net/tcp, and that of the caller itself at least."""
    with open("/proc/net/tcp", encoding="ascii") as table:
        rows = [line.split() for line in table.readlines()[1:]]
    return 1 + sum(row[1].endswith(f":{port:04X}") and row[3] == "01" and row[4][:8] != "00000000" for row in rows)


def test_a_slow_client_that_reads_gets_it_all(server: Any, request_bytes: Callable[..., bytes]) -> None:
    sock = server.connect(receive_buffer=4096)
    sock.sendall(request_bytes(max_tokens=400, stream=True))
    text = until(sock, b"\r\n0\r\n\r\n", pause=0.002)  # pieces that wait are sent together
    assert b"data: [DONE]" in text
    events = [json.loads(line[6:]) for line in text.split(b"\n") if line.startswith(b"data: {")]
    assert "".join(event["choices"][0]["text"] for event in events) == server.ask(max_tokens=400)
    sock.close()


def test_ten_thousand_idle_connections_disturb_nobody(server: Any) -> None:
    """The server was started with the usual limit of 1,024 open files, and has raised it."""
    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most < IDLE + 300:
        pytest.skip(f"this machine allows {most} open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    expected = server.ask()
    idle: list[socket.socket] = []
    try:
        # Of one address only 28,000 ports can be had, less those that earlier connections leave behind for a minute.
        idle += [server.connect(source=f"127.0.0.{2 + number % 8}") for number in range(IDLE)]
        assert server.ask() == expected
        assert server.metric("num_requests_running") == 0
        assert len(os.listdir(f"/proc/{server.process.pid}/fd")) > IDLE
    finally:
        for sock in idle:
            reset(sock)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, most))
    assert server.ask() == expected
