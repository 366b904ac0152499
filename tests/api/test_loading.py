"""While a model is loaded, a server says so."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from befit.api.listener import address, bind
from befit.api.loading import MOST_CLIENTS, Loading


@pytest.fixture
def listener():
    with bind("127.0.0.1", 0) as sock:
        yield sock


@pytest.mark.parametrize("path", ["/health", "/v1/health", "/v1/models"])
def test_everything_is_503_until_it_is_loaded(listener, path):
    with Loading(listener), httpx.Client() as client:
        for _ in range(3):
            answer = client.get(address(listener) + path)
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
            assert answer.json()["error"]["code"] == "model_loading"
        assert client.post(address(listener) + path, content=b"x" * 1_000_000).status_code == 503


def test_a_head_may_come_in_pieces_and_a_client_may_leave_or_be_silent(listener):
    host, port = listener.getsockname()
    with Loading(listener), socket.create_connection((host, port)) as silent:
        socket.create_connection((host, port)).close()
        with socket.create_connection((host, port)) as client:
            for piece in (b"GET / HTTP/1.1\r", b"\nhost: x\r\n", b"\r", b"\n"):
                client.sendall(piece)
            assert client.makefile("rb").readline().startswith(b"HTTP/1.1 503")
        silent.settimeout(5)
    assert silent.fileno() == -1


def test_who_comes_between_loading_and_serving_is_served(listener):
    host, port = listener.getsockname()
    with Loading(listener):
        pass
    with socket.create_connection((host, port)) as early:
        listener.setblocking(True)
        accepted, _ = listener.accept()
        with accepted:
            accepted.sendall(b"here")
            assert early.recv(4) == b"here"


def test_more_clients_than_are_held_are_answered_too(listener):
    with Loading(listener), ThreadPoolExecutor(16) as pool:
        host, port = listener.getsockname()
        silent = [socket.create_connection((host, port)) for _ in range(MOST_CLIENTS + 5)]
        answer = pool.submit(httpx.get, address(listener), timeout=10)
        for sock in silent:
            sock.close()
        assert answer.result().status_code == 503
