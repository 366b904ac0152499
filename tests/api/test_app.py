"""Routes around generation, and every way in which a request can be refused."""

import asyncio
import json

import httpx
import pytest

from befit.api.body import MAX_BODY_BYTES
from befit.errors import ContextExceeded, EngineDead, NonFiniteLogits, Overloaded

COMPLETION = {"model": "fake", "prompt": "ab"}


async def test_models(client):
    listed = (await client.get("/v1/models")).json()
    assert [one["id"] for one in listed["data"]] == ["fake", "other", "org/fake"]
    assert listed["data"][0]["max_model_len"] == 200
    assert listed["data"][0]["object"] == "model"
    assert (await client.get("/v1/models/org/fake")).json() == listed["data"][2]
    missing = await client.get("/v1/models/none")
    assert missing.status_code == 404


@pytest.mark.parametrize(("name", "answered"), [("fake", "fake"), ("other", "other"), ("", "fake"), (None, "fake")])
async def test_model_names(client, name, answered):
    response = await client.post("/v1/completions", json={**COMPLETION, "model": name})
    assert response.json()["model"] == answered


async def test_unknown_model(client):
    response = await client.post("/v1/completions", json={**COMPLETION, "model": "gpt"})
    assert response.status_code == 404
    error = response.json()["error"]
    assert (error["type"], error["param"], error["code"]) == ("not_found_error", "model", "model_not_found")
    assert "'gpt'" in error["message"]
    assert "fake" in error["message"]


async def test_health_version_and_openapi(client, app, engine):
    assert (await client.get("/health")).status_code == 200
    assert (await client.get("/version")).json().keys() == {"version"}
    described = (await client.get("/openapi.json")).json()
    assert "top_k" in json.dumps(described["components"]["schemas"]["CompletionRequest"])
    app.state.fleet.draining = True
    assert (await client.get("/health")).status_code == 503
    app.state.fleet.draining = False
    engine.alive = False
    assert (await client.get("/health")).json()["error"]["code"] == "engine_dead"


async def test_metrics(client, engine):
    await client.post("/v1/completions", json=COMPLETION)
    observer = engine.observer
    observer.request_arrived(3)
    observer.first_token(0.02)
    observer.tokens([0.004, 0.005, 9.0])
    observer.step(8, 0.03)
    observer.preempted()
    observer.finished("stop", 3, 4, 0, 1.0)
    text = (await client.get("/metrics")).text
    label = '{model_name="fake"}'
    assert f"befit:num_requests_waiting{label} 1.0" in text
    assert f"befit:kv_cache_usage_ratio{label} 0.5" in text
    assert f"befit:prompt_tokens_total{label} 7.0" in text
    assert 'befit:request_success_total{finished_reason="stop",model_name="fake"} 1.0' in text.replace(
        'model_name="fake",finished_reason="stop"', 'finished_reason="stop",model_name="fake"'
    )
    assert f"befit:spec_decode_num_draft_tokens_total{label} 20.0" in text
    assert f"befit:spec_decode_num_accepted_tokens_total{label} 10.0" in text
    assert f"befit:spec_decode_mean_acceptance_length{label} 3.5" in text
    assert f"befit:time_per_output_token_seconds_count{label} 3.0" in text
    assert 'befit:time_per_output_token_seconds_bucket{le="0.005",model_name="fake"} 2.0' in text.replace(
        'model_name="fake",le="0.005"', 'le="0.005",model_name="fake"'
    )


@pytest.mark.parametrize(
    "body", [b"", b"nonsense", b"{", b"[]", b'"text"', b'{"prompt": "\\ud800"}', b"\xff", b"[" * 9999]
)
async def test_bodies_that_are_no_json_object(client, body):
    response = await client.post("/v1/completions", content=body)
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"


async def test_content_type_does_not_matter(client):
    response = await client.post(
        "/v1/completions", content=json.dumps(COMPLETION), headers={"content-type": "text/plain"}
    )
    assert response.status_code == 200


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -1),
        ("temperature", "hot"),
        ("top_p", 0),
        ("n", 0),
        ("n", 1000),
        ("max_tokens", -2),
        ("max_tokens", 1.5),
        ("max_tokens", 0),
        ("stop", [""]),
        ("stop", 5),
        ("logit_bias", {"x": 1}),
        ("logit_bias", {"1": 1000}),
        ("logprobs", 21),
        ("seed", 2**70),
        ("request_id", "a b"),
        ("stream_options", {"include_usage": True}),
        ("best_of", 0),
        ("best_of", 1000),
        ("allowed_token_ids", []),
        ("allowed_token_ids", ["x"]),
        ("suffix", "x"),
        ("response_format", {"type": "json_schema"}),
        ("guided_regex", "("),
        ("structured_outputs", {"regex": "a", "choice": ["b"]}),
        ("use_beam_search", True),
        ("tools", [{}]),
        ("store", True),
        ("max_completion_tokens", 5),
        ("truncate_prompt_tokens", 0),
        ("truncate_prompt_tokens", 201),
        ("truncation_side", "top"),
    ],
)
async def test_wrong_and_unsupported_values_are_refused_by_name(client, field, value):
    response = await client.post("/v1/completions", json={**COMPLETION, field: value})
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == field
    assert field in error["message"]


@pytest.mark.parametrize(
    "harmless",
    [
        {"user": "me", "metadata": {"a": "b"}, "store": False},
        {"suffix": None, "best_of": 1, "response_format": {"type": "text"}, "service_tier": "auto"},
        {"tools": [], "tool_choice": "auto", "logit_bias": {}, "stop": None, "guided_json": None, "top_k": -1},
        dict.fromkeys(["temperature", "max_tokens", "n", "logprobs", "echo", "stream", "stream_options", "seed"]),
    ],
)
async def test_values_that_ask_for_nothing_are_accepted(client, harmless):
    response = await client.post("/v1/completions", json={**COMPLETION, **harmless})
    assert response.status_code == 200, response.text


@pytest.mark.parametrize("stream", [False, True])
async def test_fields_without_effect_are_named_in_a_header(client, stream):
    body = {**COMPLETION, "stream": stream, "keep_alive": 5, "user": "me", "metadata": None}
    response = await client.post("/v1/completions", json=body)
    assert response.headers["x-befit-ignored-fields"] == "keep_alive, user"
    response = await client.post("/v1/completions", json={**COMPLETION, "stream": stream})
    assert "x-befit-ignored-fields" not in response.headers


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/v1/responses", "/v1/embeddings"])
@pytest.mark.parametrize(("field", "shown"), [("max_tokns", "max_tokns"), ("x" * 500, "x" * 60 + "…")])
async def test_fields_that_nobody_knows_are_refused_by_name(client, engine, path, field, shown):
    body = {"prompt": "a", "messages": [{"role": "user", "content": "a"}], "input": "a"}
    needed = {"completions": "prompt", "responses": "input", "embeddings": "input"}
    name = "messages" if "chat" in path else needed[path.removeprefix("/v1/")]
    response = await client.post(path, json={name: body[name], field: 1})
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["param"], error["code"]) == (shown, "unsupported_field")
    assert engine.seen == []


async def test_a_field_that_was_meant_is_proposed(client):
    response = await client.post("/v1/completions", json={**COMPLETION, "max_token": 4})
    assert "did you mean max_tokens?" in response.json()["error"]["message"]


async def test_context_exceeded_gives_both_numbers(client):
    response = await client.post("/v1/completions", json={"prompt": "a" * 300})
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["code"] == "context_length_exceeded"
    assert "301" in error["message"]
    assert "200" in error["message"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "status"),
    [(ContextExceeded("too long", "prompt"), 400), (Overloaded("full"), 503), (EngineDead("gone"), 500)],
)
async def test_the_engines_refusals_come_before_the_stream(client, engine, error, status, stream):
    engine.refuse = error
    response = await client.post("/v1/completions", json={**COMPLETION, "stream": stream})
    assert response.status_code == status
    assert response.json()["error"]["code"] == error.code
    assert ("retry-after" in response.headers) == (status == 503)


async def test_a_failure_midway_ends_the_stream_with_an_error_event(client, engine):
    engine.fail_after, engine.error = 1, NonFiniteLogits("NaN at step 2")
    response = await client.post("/v1/completions", json={**COMPLETION, "stream": True})
    blocks = response.text.strip().split("\n\n")
    assert json.loads(blocks[-1].removeprefix("data: "))["error"]["code"] == "non_finite_logits"
    assert len(blocks) == 2
    response = await client.post("/v1/completions", json=COMPLETION)
    assert response.status_code == 500
    assert engine.open == 0


@pytest.mark.parametrize("stream", [False, True])
async def test_unplanned_errors_are_logged_not_shown(client, engine, stream, caplog):
    engine.refuse = RuntimeError("secret /root/path")
    response = await client.post(
        "/v1/completions", json={**COMPLETION, "stream": stream}, headers={"x-request-id": "r-7"}
    )
    assert response.status_code == 500
    assert "secret" not in response.text
    assert "r-7" in response.json()["error"]["message"]
    assert response.headers["x-request-id"] == "r-7"
    assert "secret" in caplog.text


@pytest.mark.parametrize(("sent", "kept"), [("abc-1", True), ("a b", False), ("x" * 200, False), (None, False)])
async def test_request_ids(client, sent, kept):
    response = await client.get("/health", headers={} if sent is None else {"x-request-id": sent})
    number = response.headers["x-request-id"]
    assert (number == sent) == kept
    assert number


async def test_unknown_routes_and_methods_have_the_same_shape(client):
    missing = await client.get("/v2/nothing")
    assert missing.status_code == 404
    assert missing.json()["error"]["code"] == "route_not_found"
    wrong = await client.get("/v1/completions")
    assert wrong.status_code == 405
    assert wrong.json()["error"]["code"] == "method_not_allowed"
    assert wrong.headers["allow"] == "POST"


async def test_body_limit(client):
    async def endless():
        while True:
            yield b" " * 1_000_000

    response = await client.post("/v1/completions", content=endless())
    assert response.status_code == 413
    assert str(MAX_BODY_BYTES) in response.json()["error"]["message"]


def asgi_call(app, body: dict, left: asyncio.Event, send):
    """A request in plain ASGI, whose client hangs up when `left` is set: only there can a test do it midway."""
    messages = iter([{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}])

    async def receive():
        message = next(messages, None)
        if message is None:
            await left.wait()
            return {"type": "http.disconnect"}
        return message

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/v1/completions",
        "raw_path": b"/v1/completions",
        "query_string": b"",
        "root_path": "",
        "headers": [],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
    }
    return asyncio.ensure_future(app(scope, receive, send))


@pytest.mark.parametrize("prompt", ["a", ["a", "b", "c"]])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_aborts_its_generation(app, engine, stream, prompt):
    engine.gate = asyncio.Event()
    left = asyncio.Event()
    sent = []

    async def send(message):
        sent.append(message)

    call = asgi_call(app, {"prompt": prompt, "stream": stream}, left, send)
    while engine.open < (1 if isinstance(prompt, str) else 3):
        await asyncio.sleep(0.001)
    while stream and not sent:  # headers go out on admission
        await asyncio.sleep(0.001)
    left.set()
    await asyncio.wait_for(call, 60)
    assert engine.open == 0


@pytest.mark.parametrize("prompt", ["a", ["a", "b"]])
async def test_a_client_that_leaves_before_the_headers_are_through_does_too(app, engine, prompt):
    engine.gate = asyncio.Event()
    left = asyncio.Event()

    async def send(message):
        await asyncio.Event().wait()

    call = asgi_call(app, {"prompt": prompt, "stream": True}, left, send)
    while not engine.open:
        await asyncio.sleep(0.001)
    left.set()
    await asyncio.wait_for(call, 60)
    assert engine.open == 0


async def test_one_failing_prompt_aborts_its_siblings(client, engine):
    engine.fail_after = 2
    response = await client.post("/v1/completions", json={"prompt": ["a", "b"]})
    assert response.status_code == 500
    assert engine.open == 0


async def test_answers_carry_their_length(client):
    response = await client.post("/v1/completions", json=COMPLETION)
    assert int(response.headers["content-length"]) == len(response.content)
    assert isinstance(response, httpx.Response)
