"""The calls of editors and their extensions, field for field, and what each of them needs of the answer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.files import CONTROL, tiny_file, word_merges
from support.tokenizers import QWEN

from .conftest import ServerProcess

QWEN_STOPS = ["<|endoftext|>", *QWEN, "<|im_start|>", "<|im_end|>", "/src/", "#- coding: utf-8", "```"]
HOLE = "<|fim_prefix|>def f(a, b):\n    <|fim_suffix|>\n    return c\n<|fim_middle|>"


@pytest.fixture(scope="module")
def coder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A model that fills in, with random weights: what it writes means nothing, how it is written does."""
    folder = tmp_path_factory.mktemp("coder")
    model = tiny_file(folder / "tiny.gguf", "qwen2", control=[*CONTROL, *QWEN], context=4096)
    names = ("--served-name", "qwen2.5-coder:tiny", "--served-name", "autodetect")
    server = ServerProcess(model, "--kv-tokens", "16384", *names)
    yield server
    assert server.stop() == 0


def post(server: ServerProcess, path: str, body: dict[str, Any], **options: Any) -> httpx.Response:
    return server.http.post(path, json=body, **options)


def events(response: httpx.Response) -> list[Any]:
    """The payloads of a stream up to [DONE]: each in a line that begins with `data: `, with its space."""
    assert response.status_code == 200, response.text
    assert response.text.endswith("\n")
    lines = [line for line in response.text.split("\n") if line]
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


# Chat in VS Code


@pytest.mark.model
def test_the_local_endpoint_of_the_hugging_face_chat_extension(server: ServerProcess) -> None:
    """Models and health without authorisation, then a stream that its line parser understands."""
    agent = {"user-agent": "vscode/1.104"}
    with httpx.Client(base_url=server.url, headers=agent, timeout=60) as http:
        models = http.get("/v1/models").json()["data"]
        assert "|" not in models[0]["id"], "the extension's own separator"
        assert models[0]["max_model_len"] == 1024, "without it the extension assumes 2048"
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
            "stop": ["```\n\n"],
            "frequency_penalty": 0,
            "presence_penalty": 0,
        }
        response = http.post("/v1/chat/completions", json=body, headers={"authorization": "Bearer dummy"})
    text = ""
    for chunk in events(response):
        for choice in chunk["choices"]:
            piece = choice["delta"].get("content", "")
            assert piece == "<" or not piece.endswith("<"), "the extension would lose the end of this piece"
            text += piece
    assert text


@pytest.mark.model
def test_its_limit_on_tokens_may_be_more_than_fits(server: ServerProcess) -> None:
    body = {"model": "smol", "messages": [{"role": "user", "content": "Hi"}], "stream": True, "max_tokens": 5000}
    with server.http.stream("POST", "/v1/chat/completions", json=body) as response:
        assert response.status_code == 200
    server.until_idle()


@pytest.mark.model
def test_health_and_models_answer_while_the_engine_is_busy(server: ServerProcess) -> None:
    body = {"prompt": ["Once upon a time"] * 8, "max_tokens": 900, "ignore_eos": True, "stream": True}
    with server.http.stream("POST", "/v1/completions", json=body) as response:
        next(response.iter_raw())
        assert server.http.get("/health").is_success
        assert server.http.get("/v1/models").is_success
        assert server.metric("num_requests_running") == 8, "it was busy all the while"
    server.until_idle()


def copilot_agent_body(model: str) -> dict[str, Any]:
    """The shape of what Copilot's agent mode sends: three messages and 39 tools, 71 KB of which 56 are schemas."""

    def tool(number: int) -> dict[str, Any]:
        properties = {
            f"argument_{at}": {"type": "string", "description": "What the tool is to work on, in plain words. " * 2}
            for at in range(10)
        }
        return {
            "type": "function",
            "function": {
                "name": f"tool_{number}",
                "description": "Works on the files of the workspace.",
                "parameters": {"type": "object", "properties": properties, "required": ["argument_0"]},
            },
        }

    return {
        "model": model,
        "messages": [
            {"role": "system", "content": "You are an expert AI programming assistant. " * 250},
            {"role": "user", "content": "<environment_info>Linux</environment_info>" * 60},
            {"role": "user", "content": "Rename the function."},
        ],
        "tools": [tool(number) for number in range(39)],
        "temperature": 0.1,
        "top_p": 1,
        "n": 1,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


@pytest.mark.model
def test_copilots_agent_is_told_plainly_that_it_does_not_fit(server: ServerProcess) -> None:
    body = copilot_agent_body("smol")
    assert 65_000 < len(json.dumps(body)) < 80_000
    response = post(server, "/v1/chat/completions", body, headers={"authorization": "Bearer"})
    assert response.status_code == 400, "before the stream, not in it"
    error = response.json()["error"]
    assert error["param"] in ("messages", "tools")
    assert error["code"] in ("context_length_exceeded", "unsupported_field")
    assert any(number in error["message"] for number in ("1024", "39"))


@pytest.fixture(scope="module")
def roomy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A model with a context for agents, and random weights."""
    merges = word_merges(json.dumps(copilot_agent_body("")))
    path = tmp_path_factory.mktemp("roomy") / "tiny.gguf"
    model = tiny_file(path, merges=merges, size=1024, n_layers=1, n_heads=1, n_kv_heads=1, context=32768)
    server = ServerProcess(
        model, "--ctx", "32768", "--kv-tokens", "40960", "--served-name", "tiny", "--max-output-tokens", "16"
    )
    yield server
    assert server.stop() == 0


def test_copilots_agent_where_it_fits(roomy: ServerProcess) -> None:
    """In chats and in the Responses protocol; the second time the prompt is known."""
    body = copilot_agent_body("tiny")
    for _ in range(2):
        chunks = events(post(roomy, "/v1/chat/completions", body, headers={"authorization": "Bearer"}))
        assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
        assert chunks[-2]["choices"][0]["finish_reason"] in ("stop", "length", "tool_calls")
        usage = chunks[-1]["usage"]
        assert 10_000 < usage["prompt_tokens"] < 32_000
    assert usage["prompt_tokens_details"]["cached_tokens"] > usage["prompt_tokens"] - 32
    body["input"] = body.pop("messages")
    body["tools"] = [{"type": "function", "strict": None, **tool["function"]} for tool in body["tools"]]
    del body["n"], body["stream_options"]
    response = post(roomy, "/v1/responses", body)
    assert response.status_code == 200, response.text
    *_, last = (line.removeprefix("data: ") for line in response.text.splitlines() if line.startswith("data: "))
    assert json.loads(last)["type"] in ("response.completed", "response.incomplete")
    assert json.loads(last)["response"]["usage"]["input_tokens"] == usage["prompt_tokens"]


@pytest.mark.model
def test_copilots_ask(server: ServerProcess) -> None:
    body = copilot_agent_body("smol") | {"max_tokens": 8}
    del body["tools"]
    body["messages"][0]["content"] = "You are an expert AI programming assistant. " * 50
    body["messages"][1]["content"] = "<environment_info>Linux</environment_info>" * 10
    chunks = events(post(server, "/v1/chat/completions", body, headers={"authorization": "Bearer"}))
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] <= 8


@pytest.mark.model
def test_cline_and_roo(server: ServerProcess) -> None:
    """Contents as parts, usage at the end, and how much of the prompt was cached."""
    body = {
        "model": "smol",
        "messages": [
            {"role": "system", "content": "You are Cline, a highly skilled software engineer. " * 10},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "<task>\nAdd a test.\n</task>"},
                    {"type": "text", "text": "<environment_details>\n# Current Mode\nACT MODE\n</environment_details>"},
                ],
            },
        ],
        "temperature": 0,
        "max_tokens": 8,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    first, second = (events(post(server, "/v1/chat/completions", body)) for _ in range(2))
    assert first[0]["choices"][0]["delta"]["role"] == "assistant"
    assert first[-2]["choices"][0]["finish_reason"] in ("stop", "length")
    assert second[-1]["usage"]["prompt_tokens_details"]["cached_tokens"] >= 64


# Completion


def test_continue_fills_in_its_own_template(coder: ServerProcess) -> None:
    assert coder.http.get("/v1/models").json()["data"][0]["max_model_len"] == 4096
    body = {
        "model": "qwen2.5-coder:tiny",
        "prompt": HOLE,
        "max_tokens": 32,
        "temperature": 0.01,
        "stop": QWEN_STOPS,
        "stream": True,
    }
    chunks = events(post(coder, "/v1/completions", body, headers={"authorization": "Bearer none"}))
    assert all(isinstance(chunk["choices"][0]["text"], str) for chunk in chunks)
    with_ids = {**body, "stream": False, "return_token_ids": True}
    choice = post(coder, "/v1/completions", with_ids).json()["choices"][0]
    assert len([token for token in choice["prompt_token_ids"] if token > 260]) == 3, "a client's markers are markers"


def test_tabby_leaves_the_template_to_the_server(coder: ServerProcess) -> None:
    body = {
        "model": "qwen2.5-coder:tiny",
        "prompt": "def f(a, b):\n    ",
        "suffix": "\n    return c\n",
        "max_tokens": 24,
        "temperature": 0.1,
        "stream": True,
        "presence_penalty": 0.0,
    }
    chunks = events(post(coder, "/v1/completions", body))
    assert all(isinstance(chunk["choices"][0]["text"], str) for chunk in chunks)
    assert chunks[-1]["choices"][0]["finish_reason"] in ("stop", "length"), "Tabby panics on [DONE] without one"
    whole = post(coder, "/v1/completions", {**body, "stream": False, "return_token_ids": True}).json()
    templated = post(coder, "/v1/completions", {"prompt": HOLE, "return_token_ids": True, "max_tokens": 1}).json()
    assert whole["choices"][0]["prompt_token_ids"] == templated["choices"][0]["prompt_token_ids"]


def test_zeds_edit_prediction(coder: ServerProcess) -> None:
    """The name in front of the colon tells Zed the prompt's format, so it may have to be an alias."""
    names = [model["id"] for model in coder.http.get("/v1/models").json()["data"]]
    assert [name.split(":")[0] for name in names] == ["qwen2.5-coder", "autodetect"]
    stop = ["<|endoftext|>", "<|file_sep|>", "<|fim_pad|>", "<|repo_name|>"]
    body = {"model": names[0], "prompt": HOLE, "max_tokens": 64, "temperature": 0.2, "stop": stop}
    answer = post(coder, "/v1/completions", body).json()
    assert {"id", "object", "created", "model", "choices", "usage"} <= set(answer)
    assert isinstance(answer["choices"][0]["text"], str)
    assert set(answer["usage"]) >= {"prompt_tokens", "completion_tokens", "total_tokens"}


def test_twinny_sends_ollamas_options(coder: ServerProcess) -> None:
    body = {
        "model": "qwen2.5-coder:tiny",
        "prompt": HOLE,
        "stream": True,
        "keep_alive": "5m",
        "options": {"temperature": 0.2, "num_predict": 30, "stop": ["<|endoftext|>"]},
    }
    response = post(coder, "/v1/completions", body)
    assert events(response)
    assert response.headers["x-befit-ignored-fields"] == "keep_alive"
    greedy = {**body, "stream": False, "options": {"temperature": 0, "num_predict": 30}}
    usage = post(coder, "/v1/completions", {**greedy, "ignore_eos": True}).json()["usage"]
    assert usage["completion_tokens"] == 30, "not the 16 of OpenAI's default"


def test_llama_vscode(coder: ServerProcess) -> None:
    body = {
        "input_prefix": "import os\n\ndef f():\n",
        "input_suffix": "\n    return x\n",
        "input_extra": [{"text": "x = 1\n" * 20, "filename": "a.py"}],
        "prompt": "    x = ",
        "n_predict": 16,
        "top_k": 40,
        "top_p": 0.99,
        "stream": False,
        "samplers": ["top_k", "top_p", "infill"],
        "cache_prompt": True,
        "t_max_prompt_ms": 500,
        "t_max_predict_ms": 2500,
    }
    warm = {**body, "input_prefix": "", "input_suffix": "", "prompt": "", "n_predict": 0, "samplers": []}
    assert coder.http.get("/props").json()["infill"] == {"family": "Qwen2.5-Coder"}
    assert post(coder, "/infill", warm).json()["tokens_predicted"] == 0
    answer = post(coder, "/infill", body).json()
    assert isinstance(answer["content"], str)
    assert answer["timings"]["cache_n"] >= 112, "the files were computed when they were announced"
    assert {"prompt_n", "prompt_ms", "predicted_n", "predicted_ms"} <= set(answer["timings"])


def test_llama_vscodes_edits_go_through_chat(coder: ServerProcess) -> None:
    """With every sampler that llama.cpp has, most of them off, and no limit."""
    body = {
        "messages": [
            {"role": "system", "content": "You are an expert coder."},
            {"role": "user", "content": "Modify the following code: x = 1"},
        ],
        "stream": False,
        "cache_prompt": True,
        "samplers": "edkypmxt",
        "temperature": 0.8,
        "dynatemp_range": 0,
        "dynatemp_exponent": 1,
        "top_k": 40,
        "top_p": 0.95,
        "min_p": 0.05,
        "typical_p": 1,
        "xtc_probability": 0,
        "xtc_threshold": 0.1,
        "repeat_last_n": 64,
        "repeat_penalty": 1,
        "presence_penalty": 0,
        "frequency_penalty": 0,
        "dry_multiplier": 0,
        "dry_base": 1.75,
        "dry_allowed_length": 2,
        "dry_penalty_last_n": -1,
        "max_tokens": -1,
        "timings_per_token": False,
    }
    response = post(coder, "/v1/chat/completions", {**body, "stop": ["e", " ", "a", "t"]})
    assert response.status_code == 200, response.text
    assert isinstance(response.json()["choices"][0]["message"]["content"], str)
    refused = post(coder, "/v1/chat/completions", {**body, "samplers": "kp"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "samplers")


def test_continues_llama_cpp_provider(coder: ServerProcess) -> None:
    body = {"prompt": HOLE, "n_predict": 8, "temperature": 0, "stream": True, "stop": QWEN_STOPS}
    response = post(coder, "/completion", body)
    payloads = [json.loads(line.removeprefix("data: ")) for line in response.text.split("\n") if line]
    assert all(isinstance(payload["content"], str) for payload in payloads)
    assert payloads[-1]["stop"] is True


# The real model


@pytest.mark.qwen
def test_a_hole_is_filled_with_what_was_cut(qwen_path: Path) -> None:
    prefix = "def add(a, b):\n    return a + b\n\n\ndef subtract(a, b):\n    return "
    suffix = "\n\n\nprint(subtract(3, 1))\n"
    server = ServerProcess(qwen_path, "--ctx", "1024", "--kv-tokens", "4096")
    try:
        body = {"prompt": prefix, "suffix": suffix, "temperature": 0, "stop": "\n"}
        assert post(server, "/v1/completions", body).json()["choices"][0]["text"] == "a - b"
        body = {"input_prefix": prefix, "input_suffix": suffix, "samplers": ["top_k", "infill"], "n_predict": 32}
        answer = post(server, "/infill", body).json()
        assert answer["content"].startswith("a - b")
    finally:
        assert server.stop() == 0
