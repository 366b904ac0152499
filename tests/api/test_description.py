"""The OpenAPI description: every route is in it, and every example works when it is pasted."""

from __future__ import annotations

import dataclasses
import json
import shlex
from typing import Any

import httpx
import jsonschema
import pytest

from befit.api.app import create_app
from befit.api.chat import ChatTemplate
from befit.api.description.answers import ANSWERS
from befit.api.description.examples import BASE, BODIES, MANAGING, curl
from befit.api.description.openapi import SCHEMAS

from .conftest import FakeEngine
from .test_infill import CHATML, TOKENS


@pytest.fixture(scope="module")
def coder() -> Any:
    """The application around a model that can do everything: chat, fill in, call tools, keep to a schema."""
    engine = FakeEngine(pieces=['{"name": "red", ', '"red": 255}'])
    engine.model.tokenizer = TOKENS
    engine.model.metadata = {"tokenizer.chat_template": CHATML, "tokenizer.ggml.eos_token_id": 256}
    engine.model.config = dataclasses.replace(engine.model.config, ctx=4096)
    return create_app(
        engine, served_name="fake", chat_template=ChatTemplate.from_metadata(engine.model.metadata, TOKENS)
    )  # type: ignore[arg-type]


def operations(app: Any) -> list[tuple[str, str, dict[str, Any]]]:
    paths = app.openapi()["paths"]
    return [(path, method, operation) for path, methods in paths.items() for method, operation in methods.items()]


async def paste(app: Any, command: str) -> httpx.Response:
    """What a shell would make of a curl command."""
    words = shlex.split(command.replace(" \\\n", " "))
    assert words.pop(0) == "curl"
    method, url, headers, body = None, None, {}, None
    while words:
        word = words.pop(0)
        if word == "-X":
            method = words.pop(0)
        elif word == "-H":
            name, _, value = words.pop(0).partition(": ")
            headers[name] = value
        elif word == "-d":
            body = words.pop(0)
        else:
            assert url is None
            url = word
    assert url is not None
    assert url.startswith(BASE)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=BASE) as client:
        return await client.request(method or ("GET" if body is None else "POST"), url, headers=headers, content=body)


async def test_every_example_works_when_it_is_pasted(coder):
    tried = 0
    for path, _, operation in operations(coder):
        for sample in operation.get("x-codeSamples", []):
            answer = await paste(coder, sample["source"])
            if path in MANAGING:  # not of this server
                assert answer.status_code == 403
                assert "--any-model" in answer.json()["error"]
                continue
            assert answer.status_code == 200, (path, sample["label"], answer.text)
            assert "x-befit-ignored-fields" not in answer.headers, (path, sample["label"])
            assert '"error":{' not in answer.text, (path, sample["label"])
            tried += 1
    assert tried > 30


def test_every_route_has_an_example_unless_it_names_something_that_was_made_before(coder):
    without = [(path, method) for path, method, operation in operations(coder) if "x-codeSamples" not in operation]
    assert all("{" in path for path, _ in without), without


def test_every_body_that_is_described_has_an_example_and_the_other_way_round(coder):
    posts = {path for path, method, _ in operations(coder) if method == "post" and "{" not in path}
    assert posts == set(BODIES) == set(SCHEMAS)
    for path, method, operation in operations(coder):
        if method == "post" and path in BODIES:
            content = operation["requestBody"]["content"]["application/json"]
            SCHEMAS[path].model_validate(content["example"])


def test_quotes_survive_the_shell():
    body = {"prompt": 'it\'s "so"\n'}
    words = shlex.split(curl("post", "/v1/completions", body).replace(" \\\n", " "))
    assert json.loads(words[words.index("-d") + 1]) == body


async def test_errors_have_the_shape_that_is_described(coder):
    description = coder.openapi()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(coder), base_url=BASE) as client:
        for path in SCHEMAS:
            answer = await client.post(path, content="[1]")
            assert 400 <= answer.status_code < 500, path
            schema = description["paths"][path]["post"]["responses"]["default"]["content"]["application/json"]["schema"]
            jsonschema.validate(answer.json(), {**schema, "components": description["components"]})


def strict(schema: Any) -> Any:
    """The schema, less the freedom of objects to have more members than it names."""
    if isinstance(schema, list):
        return [strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(value) for key, value in schema.items()}
    return {"additionalProperties": False, **made} if isinstance(made.get("properties"), dict) else made


def described(app: Any, method: str, path: str, answer: httpx.Response) -> int:
    """How many JSON values of a real answer are as the description says."""
    contents = app.openapi()["paths"][path][method]["responses"]["200"].get("content", {})
    kind = answer.headers["content-type"].partition(";")[0]
    assert kind in contents, (path, kind)
    if kind == "text/plain":
        return 1
    lines = answer.text.splitlines()
    schema = contents[kind]["schema"]
    if kind == "text/event-stream":
        schema = schema["properties"]["data"]["contentSchema"]
        events = [line.removeprefix("data:").strip() for line in lines if line.startswith("data:")]
        values = [json.loads(event) for event in events if event != "[DONE]"]
    else:
        values = [json.loads(line) for line in lines if line] if kind.endswith("ndjson") else [answer.json()]
    for value in values:
        jsonschema.validate(value, strict(schema))
    return len(values)


FURTHER = [
    ("/v1/chat/completions", {"logprobs": True, "top_logprobs": 2, "n": 2, "return_token_ids": True}),
    ("/v1/chat/completions", {"logprobs": True, "stream": True, "prompt_logprobs": None, "return_token_ids": True}),
    ("/v1/completions", {"logprobs": 1, "echo": True, "prompt_logprobs": 1, "return_token_ids": True}),
    ("/v1/responses", {"stream": True}),
    ("/v1/messages", {"stream": True}),
    ("/infill", {"stream": True}),
    ("/completion", {"stream": True}),
    ("/api/generate", {"stream": True}),
    ("/", {"stream": True}),
    ("/v1/embeddings", {"encoding_format": "base64"}),
]


async def test_answers_are_as_they_are_described(coder):
    seen = set()
    for path, method, operation in operations(coder):
        for sample in operation.get("x-codeSamples", []):
            if path not in MANAGING:
                assert described(coder, method, path, await paste(coder, sample["source"])) > 0
                seen.add((method, path))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(coder), base_url=BASE) as client:
        for path, more in FURTHER:
            answer = await client.post(path, json=BODIES[path] | more)
            assert answer.status_code == 200, answer.text
            assert described(coder, "post", path, answer) > 0
        anthropic = {"anthropic-version": "2023-06-01"}
        for headers in ({}, anthropic):
            for path, url in (("/v1/models", "/v1/models"), ("/v1/models/{name}", "/v1/models/fake")):
                assert described(coder, "get", path, await client.get(url, headers=headers)) == 1
        places = await client.post("/tokenize", json={"inputs": "Hi"})
        assert described(coder, "post", "/tokenize", places) == 1
        kept = (await client.post("/v1/responses", json={"input": "Hi"})).json()["id"]
        for method, path in (
            ("get", "/v1/responses/{name}"),
            ("get", "/v1/responses/{name}/input_items"),
            ("delete", "/v1/responses/{name}"),
        ):
            answer = await client.request(method, path.replace("{name}", kept))
            assert described(coder, method, path, answer) == 1
            seen.add((method, path))
    everything = {(method, path) for path, method, _ in operations(coder)}
    assert everything == set(ANSWERS)
    unseen = {(method, path) for method, path in everything - seen if path not in MANAGING and ANSWERS[method, path]}
    assert unseen == {("get", "/v1/models/{name}"), ("post", "/v1/responses/{name}/cancel")} - seen


def test_what_needs_a_key_is_said(coder):
    for path, _, operation in operations(coder):
        assert ("security" in operation) == (path not in ("/health", "/v1/health", "/version")), path
