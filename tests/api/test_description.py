"""The OpenAPI description: every route is in it, and every example works when it is pasted."""

from __future__ import annotations

import dataclasses
import json
import shlex
from typing import Any

import httpx
import pytest

from befit.api.app import create_app
from befit.api.chat import ChatTemplate
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
    import jsonschema

    description = coder.openapi()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(coder), base_url=BASE) as client:
        for path in SCHEMAS:
            answer = await client.post(path, content="[1]")
            assert 400 <= answer.status_code < 500, path
            schema = description["paths"][path]["post"]["responses"]["default"]["content"]["application/json"]["schema"]
            jsonschema.validate(answer.json(), {**schema, "components": description["components"]})


def test_what_needs_a_key_is_said(coder):
    for path, _, operation in operations(coder):
        assert ("security" in operation) == (path not in ("/health", "/v1/health", "/version")), path
