"""Ollama's protocol: lines of JSON, its defaults, and what it does silently and befit does not."""

from __future__ import annotations

import json

import pytest

from befit.errors import Overloaded, RequestFailed

from .conftest import CTX

GENERATE = {"model": "fake", "prompt": "Hi"}
CHAT = {"model": "fake", "messages": [{"role": "user", "content": "Hi"}]}


def lines(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize(
    ("path", "body", "text"),
    [
        ("/api/generate", GENERATE, lambda line: line["response"]),
        ("/api/chat", CHAT, lambda line: line["message"]["content"]),
    ],
)
async def test_answers_are_lines_unless_that_is_turned_off(client, path, body, text):
    answer = await client.post(path, json=body)
    assert answer.headers["content-type"].startswith("application/x-ndjson")
    found = lines(answer.text)
    assert "".join(map(text, found)) == "Hello wörld"
    assert [line["done"] for line in found] == [False, False, False, True]
    end = found[-1]
    assert (end["done_reason"], end["eval_count"]) == ("stop", 12)
    durations = ("total_duration", "load_duration", "prompt_eval_duration", "eval_duration")
    assert all(isinstance(end[name], int) and end[name] >= 0 for name in durations)
    whole = (await client.post(path, json={**body, "stream": False})).json()
    assert text(whole) == "Hello wörld"
    assert whole["done"] is True


async def test_a_prompt_goes_through_the_template_unless_it_is_raw(client, engine, template):
    await client.post("/api/generate", json={**GENERATE, "system": "Be brief."})
    assert [message["role"] for message in template.calls[-1]["messages"]] == ["system", "user"]
    await client.post("/api/generate", json={**GENERATE, "raw": True})
    assert engine.seen[-1][0] == [256, *b"Hi"]


async def test_the_context_of_an_answer_comes_before_the_next_prompt(client, engine):
    end = lines((await client.post("/api/generate", json=GENERATE)).text)[-1]
    await client.post("/api/generate", json={**GENERATE, "context": end["context"]})
    assert engine.seen[-1][0][: len(end["context"])] == end["context"]


async def test_options_and_their_defaults(client, engine):
    await client.post("/api/generate", json=GENERATE)
    params = engine.seen[-1][1]
    assert (params.temperature, params.top_k, params.top_p, params.max_tokens) == (0.8, 40, 0.9, None)
    options = {"temperature": 0, "seed": 3, "num_predict": 5, "stop": "x", "repeat_penalty": 1.1, "top_k": 0}
    await client.post("/api/generate", json={**GENERATE, "options": options})
    params = engine.seen[-1][1]
    assert (params.temperature, params.seed, params.max_tokens, params.stop) == (0, 3, 5, ("x",))
    assert (params.repetition_penalty, params.top_k) == (1.1, 0)


async def test_what_has_no_effect_is_named(client):
    options = {"num_ctx": 10 * CTX, "num_gpu": 99, "num_thread": 4}
    answer = await client.post("/api/generate", json={**GENERATE, "options": options, "keep_alive": "5m"})
    named = set(answer.headers["x-befit-ignored-fields"].split(", "))
    assert named == {"keep_alive", "options.num_ctx", "options.num_gpu", "options.num_thread"}
    smaller = await client.post("/api/generate", json={**GENERATE, "options": {"num_ctx": 4}})
    assert smaller.status_code == 200
    assert "x-befit-ignored-fields" not in smaller.headers


async def test_think_is_named_where_the_template_has_no_switch_for_it(client, template):
    for path, body in (("/api/generate", GENERATE), ("/api/chat", CHAT)):
        assert "x-befit-ignored-fields" not in (await client.post(path, json={**body, "think": True})).headers
        template.switches_thinking = False
        answer = await client.post(path, json={**body, "think": True})
        assert answer.headers["x-befit-ignored-fields"] == "think"
        template.switches_thinking = True


@pytest.mark.parametrize("path", ["/api/generate", "/api/chat"])
async def test_a_prompt_is_cut_only_where_that_is_asked_for(client, engine, path):
    body = {"prompt": "x" * 3 * CTX, "raw": True} if path == "/api/generate" else {
        "messages": [{"role": "user", "content": "x" * 3 * CTX}]
    }  # fmt: skip
    refused = await client.post(path, json=body)
    assert refused.status_code == 400
    assert str(CTX) in refused.json()["error"]
    cut = await client.post(path, json={**body, "truncate": True})
    assert cut.status_code == 200
    assert len(engine.seen[-1][0]) == CTX // 2


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("/api/generate", {**GENERATE, "images": ["aGk="]}, "images"),
        ("/api/generate", {**GENERATE, "template": "{{ .Prompt }}"}, "template"),
        ("/api/generate", {**GENERATE, "raw": True, "system": "x"}, "raw"),
        ("/api/generate", {**GENERATE, "suffix": "x"}, "fill in"),
        ("/api/generate", {**GENERATE, "format": 3}, "format"),
        ("/api/generate", {**GENERATE, "keep_alive": "soon"}, "keep_alive"),
        ("/api/generate", {**GENERATE, "context": [999]}, "999"),
        ("/api/generate", {**GENERATE, "options": {"mirostat": 2}}, "options.mirostat"),
        ("/api/generate", {**GENERATE, "options": {"temprature": 1}}, "did you mean temperature"),
        ("/api/generate", {**GENERATE, "promt": "x"}, "did you mean prompt"),
        ("/api/chat", {"messages": [{"role": "user", "content": "x", "images": ["aGk="]}]}, "images"),
        ("/api/chat", {"messages": [{"role": "nobody", "content": "x"}]}, "role"),
        ("/api/chat", {"messages": [{"role": "assistant", "tool_calls": [{}]}]}, "no name"),
        ("/api/embed", {"input": []}, "input"),
    ],
)
async def test_what_is_wrong_is_named(client, path, body, words):
    answer = await client.post(path, json=body)
    assert answer.status_code == 400
    assert set(answer.json()) == {"error"}
    assert words in answer.json()["error"]


async def test_errors_before_and_within_a_stream(client, engine):
    engine.refuse = Overloaded("full")
    answer = await client.post("/api/generate", json=GENERATE)
    assert (answer.status_code, answer.json()) == (503, {"error": "full"})
    engine.refuse, engine.fail_after, engine.error = None, 1, RequestFailed("broken")
    assert lines((await client.post("/api/generate", json=GENERATE)).text)[-1] == {"error": "broken"}
    assert (await client.post("/api/generate", json={**GENERATE, "model": "x"})).status_code == 404


async def test_no_prompt_only_loads(client, engine):
    for path in ("/api/generate", "/api/chat"):
        body = (await client.post(path, json={"model": "fake"})).json()
        assert (body["done"], body["done_reason"]) == (True, "load")
    assert engine.seen == []


async def test_calls_are_told_when_they_are_whole(client, engine):
    engine.pieces = ['{"name": "f", ', '"parameters": {"x": 1}}']
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
    found = lines((await client.post("/api/chat", json={**CHAT, "tools": [tool]})).text)
    [call] = [call for line in found for call in line["message"].get("tool_calls", ())]
    assert call == {"function": {"name": "f", "arguments": {"x": 1}}}
    whole = (await client.post("/api/chat", json={**CHAT, "tools": [tool], "stream": False})).json()
    assert whole["message"]["tool_calls"] == [call]


async def test_embeddings_have_length_1(client):
    body = (await client.post("/api/embed", json={"model": "fake", "input": ["a", "b"]})).json()
    assert len(body["embeddings"]) == 2
    assert sum(x * x for x in body["embeddings"][0]) == pytest.approx(1)
    short = (await client.post("/api/embed", json={"input": "a", "dimensions": 2})).json()
    assert len(short["embeddings"][0]) == 2
    old = (await client.post("/api/embeddings", json={"prompt": "a"})).json()
    assert len(old["embedding"]) == 4
