import json

import pytest

from befit.api.stream import split_tool_marker

MESSAGES = [{"role": "user", "content": "hi"}]


async def chat(client, **body):
    return await client.post("/v1/chat/completions", json={"model": "fake", "messages": MESSAGES, **body})


async def chunks_of(client, **body) -> list:
    response = await chat(client, stream=True, **body)
    assert response.status_code == 200, response.text
    payloads = [block.removeprefix("data: ") for block in response.text.strip().split("\n\n")]
    assert payloads[-1] == "[DONE]"
    return [json.loads(payload) for payload in payloads[:-1]]


async def test_answer_has_openais_shape(client):
    body = (await chat(client)).json()
    assert body.pop("id").startswith("chatcmpl-")
    assert body.pop("created") > 1_700_000_000
    assert body.pop("system_fingerprint").startswith("fp_")
    assert body == {
        "object": "chat.completion",
        "model": "fake",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello wörld", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
                "stop_reason": None,
            }
        ],
        "usage": {
            "prompt_tokens": 8,
            "completion_tokens": 12,
            "total_tokens": 20,
            "prompt_tokens_details": {"cached_tokens": 3},
        },
    }


async def test_stream_begins_with_the_role_and_ends_with_the_reason(client):
    chunks = await chunks_of(client)
    assert [chunk["choices"][0]["delta"] for chunk in chunks] == [
        {"role": "assistant", "content": ""},
        {"content": "Hel"},
        {"content": "lo "},
        {"content": "wörld"},
    ]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, None, "stop"]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}


async def test_stream_of_several_choices(client):
    texts = ["", ""]
    for chunk in await chunks_of(client, n=2, stream_options={"include_usage": True}):
        for choice in chunk["choices"]:
            texts[choice["index"]] += choice["delta"]["content"]
    assert texts == ["Hello wörld"] * 2
    assert chunk["choices"] == []
    assert chunk["usage"]["completion_tokens"] == 24


async def test_the_rest_of_the_context_is_the_limit(client, engine):
    await chat(client)
    await chat(client, max_tokens=5)
    await chat(client, max_completion_tokens=6)
    await chat(client, max_tokens=9999)
    assert [params.max_tokens for _, params, _ in engine.seen] == [None, 5, 6, 192]


async def test_logprobs_are_objects(client):
    choice = (await chat(client, logprobs=True, top_logprobs=2, max_tokens=1)).json()["choices"][0]
    assert choice["logprobs"] == {
        "content": [
            {
                "token": "H",
                "logprob": -0.5,
                "bytes": [72],
                "top_logprobs": [
                    {"token": "H", "logprob": -0.5, "bytes": [72]},
                    {"token": "I", "logprob": -1.5, "bytes": [73]},
                ],
            }
        ],
        "refusal": None,
    }
    chunks = await chunks_of(client, logprobs=True)
    spelled = [entry["token"] for chunk in chunks[1:] for entry in chunk["choices"][0]["logprobs"]["content"]]
    assert spelled[:3] == ["H", "e", "l"]


async def test_messages_reach_the_template_as_text(client, template):
    messages = [
        {"role": "developer", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "user"},
        {"role": "assistant", "content": None, "tool_calls": []},
        {"role": "user", "content": "c"},
        {"role": "user", "content": "d", "name": "eve"},
    ]
    assert (await chat(client, messages=messages, chat_template_kwargs={"x": 1})).status_code == 200
    assert template.calls[0] == {
        "messages": [
            {"role": "system", "content": "a\nb"},
            {"role": "user", "content": ""},
            {"role": "assistant", "content": ""},
            {"role": "user", "content": "c"},
            {"role": "user", "content": "d", "name": "eve"},
        ],
        "add_generation_prompt": True,
        "continue_final_message": False,
        "x": 1,
    }


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"content": "hi"}]}, "messages"),
        ({"messages": [{"role": "robot", "content": "hi"}]}, "messages"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, "messages"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 4, "max_completion_tokens": 5}, "max_tokens"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"continue_final_message": True, "add_generation_prompt": True}, "continue_final_message"),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"response_format": {"type": "xml"}}, "response_format"),
    ],
)
async def test_what_cannot_be_honoured_is_refused_by_name(client, body, param):
    response = await chat(client, **body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


async def test_tools_that_must_not_be_used_are_left_out(client, template):
    assert (await chat(client, tools=[{"type": "function"}], tool_choice="none")).status_code == 200
    assert "tools" not in template.calls[0]


async def test_prefixes_of_the_tool_marker_travel_alone(client, engine):
    """An editor extension drops the end of a delta that could begin `<|tool_call_begin|>`."""
    engine.pieces = ["vector<", "int> a <|", "b<", "c<"]
    pieces = [chunk["choices"][0]["delta"]["content"] for chunk in await chunks_of(client)]
    assert pieces == ["", "vector", "<", "int> a ", "<|", "b", "<", "c", "<"]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("plain", ("plain", "")),
        ("", ("", "")),
        ("<", ("<", "")),
        ("a <", ("a ", "<")),
        ("a<|tool_call", ("a", "<|tool_call")),
        ("a<|tool_call_begin|>", ("a<|tool_call_begin|>", "")),
        ("a<b", ("a<b", "")),
        ("a<<", ("a<", "<")),
    ],
)
def test_split_tool_marker(text, parts):
    assert split_tool_marker(text) == parts
