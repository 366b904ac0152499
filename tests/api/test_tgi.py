"""TGI's protocol: the shapes of its answers and errors, and its rules for parameters."""

from __future__ import annotations

import json

import pytest

from befit.api.tgi.types import GenerateRequest
from befit.errors import EngineDead, Overloaded, RequestFailed

from .conftest import CTX

BODY = {"inputs": "Hi", "parameters": {}}


def events(text: str) -> list[dict]:
    return [json.loads(line.removeprefix("data: ")) for line in text.split("\n\n") if line]


async def test_an_answer_is_an_object_and_at_the_root_a_list_with_the_prompt(client):
    assert (await client.post("/generate", json=BODY)).json() == {"generated_text": "Hello wörld"}
    assert (await client.post("/", json=BODY)).json() == [{"generated_text": "HiHello wörld"}]
    without = {"inputs": "Hi", "parameters": {"return_full_text": False}}
    assert (await client.post("/", json=without)).json() == [{"generated_text": "Hello wörld"}]


async def test_details(client):
    asked = {"details": True, "decoder_input_details": True, "top_n_tokens": 2, "do_sample": True, "seed": 7}
    answer = await client.post("/generate", json={"inputs": "Hi", "parameters": asked})
    details = answer.json()["details"]
    assert {name: details[name] for name in ("finish_reason", "generated_tokens", "seed")} == {
        "finish_reason": "eos_token",
        "generated_tokens": 12,
        "seed": 7,
    }
    assert [token["text"] for token in details["prefill"]] == ["<|begin|>", "H", "i"]
    assert [token["logprob"] for token in details["prefill"]] == [None, -0.5, -0.5]
    # ö is two tokens here: its text comes with the second
    assert [token["text"] for token in details["tokens"]][6:10] == ["w", "", "ö", "r"]
    assert [len(top) for top in details["top_tokens"]] == [2] * 12
    assert answer.headers["x-prompt-tokens"] == "3"
    assert answer.headers["x-generated-tokens"] == "12"


@pytest.mark.parametrize("path", ["/generate_stream", "/"])
async def test_a_stream_has_an_event_a_token_and_the_whole_text_in_the_last(client, path):
    body = {"inputs": "Hi", "parameters": {"details": True, "return_full_text": False}, "stream": True}
    answer = await client.post(path, json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    found = events(answer.text)
    assert [event["index"] for event in found] == list(range(1, 13))
    assert "".join(event["token"]["text"] for event in found) == "Hello wörld"
    assert {event["generated_text"] for event in found[:-1]} == {None}
    assert found[-1]["generated_text"] == "Hello wörld"
    assert found[-1]["details"] == {
        "finish_reason": "eos_token",
        "generated_tokens": 12,
        "seed": None,
        "input_length": 3,
    }


async def test_of_several_the_likeliest_comes_first(client):
    asked = {"best_of": 2, "do_sample": True, "details": True}
    answer = (await client.post("/generate", json={"inputs": "Hi", "parameters": asked})).json()
    assert [one["generated_text"] for one in answer["details"]["best_of_sequences"]] == ["Hello wörld"]


@pytest.mark.parametrize(
    ("parameters", "temperature"),
    [
        (None, 1.0),  # without parameters TGI samples, with none given it does not
        ({}, 0.0),
        ({"do_sample": True}, 1.0),
        ({"temperature": 1.0}, 0.0),
        ({"temperature": 0.5}, 0.5),
        ({"top_p": 0.9}, 1.0),
        ({"top_k": 5}, 1.0),
    ],
)
async def test_when_tokens_are_drawn(client, engine, parameters, temperature):
    await client.post("/generate", json={"inputs": "Hi", "parameters": parameters})
    params = engine.seen[0][1]
    assert params.temperature == temperature
    assert (params.seed is not None) == (temperature > 0)


async def test_truncate_keeps_the_end(client, engine):
    await client.post("/generate", json={"inputs": "0123456789", "parameters": {"truncate": 4}})
    assert engine.seen[0][0] == list(b"6789")


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"temperature": 0}, "`temperature` must be strictly positive"),
        ({"repetition_penalty": 0}, "`repetition_penalty` must be strictly positive"),
        ({"top_p": 1.0}, "`top_p` must be > 0.0 and < 1.0"),
        ({"typical_p": 0}, "`typical_p` must be > 0.0 and < 1.0"),
        ({"top_k": 0}, "`top_k` must be strictly positive"),
        ({"max_new_tokens": 0}, "`max_new_tokens` must be strictly positive"),
        ({"max_new_tokens": CTX}, f"must be <= {CTX}"),
        ({"top_n_tokens": 21}, "`top_n_tokens` must be >= 0 and <= 20"),
        ({"best_of": 2}, "must use sampling"),
        ({"best_of": 2, "do_sample": True, "seed": 1}, "`seed` must not be set"),
        ({"best_of": 2, "do_sample": True, "stream": True}, "stream is not a field"),
        ({"frequency_penalty": 3}, "frequency_penalty"),
        ({"adapter_id": "x"}, "adapter_id"),
        ({"grammar": {"type": "lark", "value": "x"}}, "grammar.type"),
        ({"max_tokens": 3}, "did you mean max_new_tokens"),
    ],
)
async def test_what_is_wrong_is_a_validation_error_that_names_it(client, parameters, words):
    answer = await client.post("/generate", json={"inputs": "Hi", "parameters": parameters})
    assert answer.status_code == 422
    assert set(answer.json()) == {"error", "error_type"}
    assert answer.json()["error"].startswith("Input validation error: ")
    assert words in answer.json()["error"]
    assert answer.json()["error_type"] == "validation"


@pytest.mark.parametrize("asked", [{"best_of": 2, "do_sample": True}, {"decoder_input_details": True}])
async def test_what_only_whole_answers_have(client, asked):
    answer = await client.post("/generate_stream", json={"inputs": "Hi", "parameters": asked})
    assert answer.status_code == 422


async def test_nulls_are_not_given(client):
    names = GenerateRequest.model_fields["parameters"].annotation.__args__[0].model_fields
    answer = await client.post("/generate", json={"inputs": "Hi", "parameters": dict.fromkeys(names), "stream": None})
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (Overloaded("full"), 429, "overloaded"),
        (EngineDead("dead"), 503, "healthcheck"),
        (RequestFailed("broken"), 424, "generation"),
    ],
)
async def test_errors_have_the_statuses_that_its_clients_know(client, engine, error, status, kind):
    engine.refuse = error
    answer = await client.post("/generate", json=BODY)
    assert (answer.status_code, answer.json()["error_type"]) == (status, kind)


async def test_a_stream_that_fails_says_so_in_an_event(client, engine):
    engine.fail_after, engine.error = 1, RequestFailed("broken")
    found = events((await client.post("/generate_stream", json=BODY)).text)
    assert found[-1] == {"error": "broken", "error_type": "generation"}


async def test_tokens_with_their_places(client):
    answer = await client.post("/tokenize", json={"inputs": "aö"})
    assert answer.json() == [
        {"id": 256, "text": "<|begin|>", "start": 0, "stop": 0},
        {"id": 97, "text": "a", "start": 0, "stop": 1},
        {"id": 195, "text": "", "start": 1, "stop": 1},
        {"id": 182, "text": "ö", "start": 1, "stop": 2},
    ]
    chat = await client.post("/chat_tokenize", json={"messages": [{"role": "user", "content": "Hi"}]})
    assert chat.json()["templated_text"] == "user:Hi\n"
    assert len(chat.json()["tokenize_response"]) == 8


async def test_invocations_are_told_apart_by_their_fields(client):
    async def post(body):
        return (await client.post("/invocations", json=body)).json()

    assert (await post({"messages": [{"role": "user", "content": "Hi"}]}))["object"] == "chat.completion"
    assert (await post({"prompt": "Hi"}))["object"] == "text_completion"
    assert (await post(BODY)) == [{"generated_text": "HiHello wörld"}]
    assert (await post([]))["error_type"] == "validation"


async def test_info(client):
    body = (await client.get("/info")).json()
    assert (body["model_id"], body["max_total_tokens"], body["max_input_tokens"]) == ("fake", CTX, CTX - 1)
