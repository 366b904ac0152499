"""Anthropic's protocol: blocks become messages of a chat, and the answer becomes blocks."""

from __future__ import annotations

import json

import pytest

from befit.errors import EngineDead, Overloaded, RequestFailed

from .conftest import CTX

BODY = {"max_tokens": 50, "messages": [{"role": "user", "content": "Hi"}]}


def events(text: str) -> list[tuple[str, dict]]:
    found = []
    for event in text.strip().split("\n\n"):
        name, data = event.split("\n")
        found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


async def test_a_whole_message(client):
    body = (await client.post("/v1/messages", json={**BODY, "model": "other"})).json()
    assert body.pop("id").startswith("msg_")
    assert body == {
        "type": "message",
        "role": "assistant",
        "model": "other",
        "content": [{"type": "text", "text": "Hello wörld"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 5,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 3,
            "output_tokens": 12,
        },
    }


async def test_a_stream(client):
    found = events((await client.post("/v1/messages", json={**BODY, "stream": True})).text)
    assert [name for name, _ in found] == [
        *("message_start", "ping", "content_block_start"),
        *["content_block_delta"] * 3,
        *("content_block_stop", "message_delta", "message_stop"),
    ]
    assert all(data["type"] == name for name, data in found)
    assert "".join(data["delta"]["text"] for name, data in found if name == "content_block_delta") == "Hello wörld"
    assert found[-2][1]["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}
    assert found[-2][1]["usage"]["output_tokens"] == 12


async def test_blocks_become_messages(client, template):
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": ""},
                {"type": "text", "text": "b"},
                {"type": "tool_use", "id": "t1", "name": "f", "input": {"x": 1}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "r"}]},
                {"type": "text", "text": "c"},
            ],
        },
    ]
    system = [{"type": "text", "text": "s1"}, {"type": "text", "text": "s2"}]
    answer = await client.post("/v1/messages", json={**BODY, "system": system, "messages": messages})
    assert answer.status_code == 200, answer.text
    seen = template.calls[-1]["messages"]
    assert [(message["role"], message["content"]) for message in seen] == [
        ("system", "s1\ns2"),
        ("user", "a"),
        ("assistant", "b"),
        ("tool", "r"),
        ("user", "c"),
    ]
    assert seen[2]["reasoning_content"] == "hm"
    assert seen[2]["tool_calls"][0]["function"] == {"name": "f", "arguments": {"x": 1}}


async def test_fields_reach_the_engine(client, engine):
    asked = {"temperature": 0.5, "top_k": 3, "top_p": 0.9, "stop_sequences": ["X"], "max_tokens": 7}
    await client.post("/v1/messages", json={**BODY, **asked})
    params = engine.seen[0][1]
    assert (params.temperature, params.top_k, params.top_p, params.stop, params.max_tokens) == (0.5, 3, 0.9, ["X"], 7)


async def test_a_limit_beyond_the_context_is_told_apart(client, engine):
    engine.pieces = ["x" * CTX]
    long = (await client.post("/v1/messages", json={**BODY, "max_tokens": 10 * CTX})).json()
    short = (await client.post("/v1/messages", json={**BODY, "max_tokens": 4})).json()
    assert (long["stop_reason"], short["stop_reason"]) == ("model_context_window_exceeded", "max_tokens")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": []}, "messages is empty"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, "'image'"),
        ({"messages": [{"role": "user", "content": [{"type": "tool_use", "id": "x", "name": "f"}]}]}, "'tool_use'"),
        ({"system": [{"type": "image"}]}, "system[0]"),
        ({"stop_sequences": [""]}, "stop_sequences"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "only custom tools"),
        ({"tool_choice": {"type": "some"}}, "tool_choice"),
        ({"thinking": {"type": "maybe"}}, "thinking.type"),
        ({"container": "x"}, "container"),
        ({"max_token": 3}, "did you mean max_tokens"),
        ({"output_config": {"format": {"type": "xml"}}}, "output_config"),
    ],
)
async def test_what_is_wrong_is_named(client, fields, words):
    answer = await client.post("/v1/messages", json={**BODY, **fields})
    assert answer.status_code == 400
    body = answer.json()
    assert body["type"] == "error"
    assert body["error"]["type"] == "invalid_request_error"
    assert words in body["error"]["message"]
    assert body["request_id"] == answer.headers["x-request-id"]


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (Overloaded("full"), 529, "overloaded_error"),
        (EngineDead("dead"), 500, "api_error"),
        (RequestFailed("broken"), 500, "api_error"),
    ],
)
async def test_statuses_of_errors(client, engine, error, status, kind):
    engine.refuse = error
    answer = await client.post("/v1/messages", json=BODY)
    assert (answer.status_code, answer.json()["error"]["type"]) == (status, kind)


async def test_a_stream_that_fails_ends_with_an_error_event(client, engine):
    engine.fail_after, engine.error = 1, RequestFailed("broken")
    name, data = events((await client.post("/v1/messages", json={**BODY, "stream": True})).text)[-1]
    assert name == "error"
    assert data["error"] == {"type": "api_error", "message": "broken"}


async def test_fields_without_effect_are_named(client):
    fields = {"metadata": {"user_id": "u"}, "thinking": {"type": "enabled", "budget_tokens": 100}}
    answer = await client.post("/v1/messages", json={**BODY, **fields})
    assert answer.headers["x-befit-ignored-fields"] == "metadata, thinking.budget_tokens"


async def test_thinking_is_named_where_the_template_has_no_switch_for_it(client, template):
    template.switches_thinking = False
    answer = await client.post("/v1/messages", json={**BODY, "thinking": {"type": "disabled"}})
    assert answer.headers["x-befit-ignored-fields"] == "thinking"
