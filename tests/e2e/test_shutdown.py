"""Signals, ports and connections."""

import signal
import socket
import subprocess
import sys
import time

import httpx
import pytest

pytestmark = pytest.mark.model

LONG = {"prompt": "Once", "max_tokens": 150, "ignore_eos": True, "stream": True}


def test_sigterm_finishes_what_runs_and_refuses_the_rest(own_server):
    http = own_server.http
    assert http.get("/health").is_success
    with http.stream("POST", "/v1/completions", json=LONG) as response:
        pieces = response.iter_text()
        next(pieces)
        own_server.process.send_signal(signal.SIGTERM)
        while http.get("/health").is_success:
            time.sleep(0.005)
        refused = http.post("/v1/completions", json=LONG)
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "1"
        assert refused.json()["error"]["code"] == "overloaded"
        rest = "".join(pieces)
    assert rest.endswith("data: [DONE]\n\n")
    assert '"finish_reason":"length"' in rest
    assert own_server.process.wait(60) == 0


def test_a_second_signal_ends_at_once(own_server):
    body = {**LONG, "max_tokens": 1000}
    with own_server.http.stream("POST", "/v1/completions", json=body) as response:
        pieces = response.iter_text()
        next(pieces)
        own_server.process.send_signal(signal.SIGINT)
        while own_server.http.get("/health").is_success:
            time.sleep(0.005)
        own_server.process.send_signal(signal.SIGINT)
        assert own_server.process.wait(60) == 128 + signal.SIGINT


def test_a_taken_port_is_told_before_the_model_is_loaded(smollm2_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "befit.cli", "serve", str(smollm2_path), "--port", port]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert "Address already in use" in done.stderr
    assert "Traceback" not in done.stderr


def test_connections_are_kept(server):
    with httpx.Client(base_url=server.url, timeout=60) as http:
        first = http.get("/health")
        for _ in range(3):
            assert http.post("/v1/completions", json={"prompt": "a", "max_tokens": 1}).is_success
        last = http.get("/health")
        sockets = [one.extensions["network_stream"].get_extra_info("client_addr") for one in (first, last)]
    assert sockets[0] == sockets[1]
