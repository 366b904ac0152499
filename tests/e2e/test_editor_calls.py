"""The calls of an editor extension with a fixed idea of its server, replayed as it makes them."""

import json

import httpx
import pytest

pytestmark = pytest.mark.model


def test_the_calls_of_a_vscode_chat_extension(server):
    """Models and health without authorisation, then a stream that its line parser understands."""
    agent = {"user-agent": "vscode/1.104"}
    with httpx.Client(base_url=server.url, headers=agent, timeout=5) as http:
        models = http.get("/v1/models").json()["data"]
        assert "|" not in models[0]["id"]
        assert models[0]["max_model_len"] == 1024
        assert http.get("/health").is_success
        body = {
            "model": models[0]["id"],
            "messages": [
                {"role": "system", "content": "You are a helpful coding assistant."},
                {"role": "user", "content": "Write x < y in C++."},
                {"role": "user", "content": "Be brief."},
            ],
            "stream": True,
            "max_tokens": 50,
            "temperature": 0.7,
        }
        headers = {"authorization": "Bearer dummy"}
        with http.stream("POST", "/v1/chat/completions", json=body, headers=headers, timeout=30) as response:
            assert response.status_code == 200
            raw = b"".join(response.iter_raw()).decode()
    assert raw.endswith("\n")
    lines = [line for line in raw.split("\n") if line]
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"
    text = ""
    for line in lines[:-1]:
        for choice in json.loads(line.removeprefix("data: "))["choices"]:
            piece = choice["delta"].get("content", "")
            assert piece == "<" or not piece.endswith("<"), "the extension would lose the end of this piece"
            text += piece
    assert text


def test_health_and_models_answer_while_the_engine_is_busy(server):
    body = {"prompt": ["Once upon a time"] * 8, "max_tokens": 40, "ignore_eos": True, "stream": True}
    with httpx.stream("POST", f"{server.url}/v1/completions", json=body, timeout=60) as response:
        pieces = response.iter_raw()
        next(pieces)
        assert httpx.get(f"{server.url}/health", timeout=1).is_success
        assert httpx.get(f"{server.url}/v1/models", timeout=1).is_success
    server.until_idle()
