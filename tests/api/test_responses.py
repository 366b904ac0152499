"""`/v1/responses` over a fake engine: objects, events, conversations, the background, and what is refused."""

import asyncio
import json

import pytest

from befit.errors import NonFiniteLogits

MESSAGE = {"type": "message", "role": "assistant", "status": "completed"}


async def create(client, value="hi", **body):
    return await client.post("/v1/responses", json={"model": "fake", "input": value, **body})


def events(text):
    """(name, payload) of every event; the names must agree with the payloads, and their numbers count up."""
    found = []
    for block in text.strip().split("\n\n"):
        name, data = block.split("\n")
        found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    assert [name for name, _ in found] == [payload["type"] for _, payload in found]
    assert [payload["sequence_number"] for _, payload in found] == list(range(len(found)))
    return found


def seen_messages(template):
    return [[(message["role"], message["content"]) for message in call["messages"]] for call in template.calls]


async def test_answer_has_openais_shape(client):
    response = await create(client, metadata={"a": "b"}, user="me", max_output_tokens=100, temperature=0.5)
    body = response.json()
    assert response.status_code == 200
    assert body.pop("id").startswith("resp_")
    assert body.pop("created_at") > 1_700_000_000
    assert body.pop("completed_at") > 1_700_000_000
    [item] = body.pop("output")
    assert item.pop("id").startswith("msg_")
    part = {"type": "output_text", "text": "Hello wörld", "annotations": []}
    assert item == {**MESSAGE, "content": [part]}
    assert body == {
        "object": "response",
        "status": "completed",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "max_output_tokens": 100,
        "max_tool_calls": None,
        "metadata": {"a": "b"},
        "model": "fake",
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "prompt_cache_key": None,
        "prompt_cache_retention": None,
        "reasoning": {"effort": None, "summary": None},
        "safety_identifier": None,
        "service_tier": "default",
        "store": True,
        "temperature": 0.5,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_logprobs": 0,
        "top_p": 1.0,
        "truncation": "disabled",
        "user": "me",
        "usage": {
            "input_tokens": 8,
            "input_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 0},
            "output_tokens": 12,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 20,
        },
    }


async def test_an_answer_that_reaches_its_limit_is_incomplete(client):
    body = (await create(client, max_output_tokens=2)).json()
    assert (body["status"], body["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert body["output"][0]["status"] == "incomplete"
    assert body["output"][0]["content"][0]["text"] == "He"


async def test_events_come_in_openais_order(client):
    response = await create(client, stream=True)
    assert response.headers["content-type"].startswith("text/event-stream")
    found = events(response.text)
    assert [name.removeprefix("response.") for name, _ in found] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        *["output_text.delta"] * 3,
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    payloads = [payload for _, payload in found]
    assert payloads[0]["response"]["status"] == payloads[1]["response"]["status"] == "in_progress"
    assert payloads[0]["response"]["output"] == []
    assert payloads[2]["item"]["content"] == []
    assert payloads[3]["part"] == {"type": "output_text", "text": "", "annotations": []}
    assert [payload["delta"] for payload in payloads[4:7]] == ["Hel", "lo ", "wörld"]
    assert payloads[7]["text"] == payloads[8]["part"]["text"] == "Hello wörld"
    assert payloads[9]["item"] == payloads[10]["response"]["output"][0]
    assert payloads[10]["response"]["usage"]["output_tokens"] == 12
    assert {payload["item_id"] for payload in payloads[3:9]} == {payloads[9]["item"]["id"]}
    assert events((await create(client, stream=True, max_output_tokens=2)).text)[-1][0] == "response.incomplete"


async def test_logprobs(client):
    include = ["message.output_text.logprobs"]
    [item] = (await create(client, include=include, top_logprobs=2)).json()["output"]
    first = item["content"][0]["logprobs"][0]
    assert (first["token"], first["logprob"], len(first["top_logprobs"])) == ("H", -0.5, 2)
    found = events((await create(client, include=include, stream=True)).text)
    spelled = [one["token"] for name, payload in found if name.endswith("text.delta") for one in payload["logprobs"]]
    done = next(payload for name, payload in found if name.endswith("text.done"))
    assert spelled == [one["token"] for one in done["logprobs"]]
    assert spelled[:3] == ["H", "e", "l"]


async def test_a_conversation_goes_on_from_a_response(client, template):
    first = (await create(client, "one", instructions="Be brief.")).json()
    second = (await create(client, "two", previous_response_id=first["id"])).json()
    await create(client, "three", previous_response_id=second["id"], instructions="Be long.")
    said = ("assistant", "Hello wörld")
    assert seen_messages(template) == [
        [("system", "Be brief."), ("user", "one")],
        [("user", "one"), said, ("user", "two")],
        [("system", "Be long."), ("user", "one"), said, ("user", "two"), said, ("user", "three")],
    ]
    assert second["previous_response_id"] == first["id"]


@pytest.mark.parametrize("fields", [{"stream": True}, {"background": True}, {"stream": True, "background": True}])
async def test_a_conversation_has_each_answer_once_however_it_was_read(client, template, fields):
    response = await create(client, "one", **fields)
    name = events(response.text)[0][1]["response"]["id"] if "stream" in fields else response.json()["id"]
    await until_ended(client, name)
    await create(client, "two", previous_response_id=name)
    assert seen_messages(template)[-1] == [("user", "one"), ("assistant", "Hello wörld"), ("user", "two")]


async def test_input_in_every_shape(client, template):
    await create(
        client,
        [
            {"role": "developer", "content": "d"},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "a"}]},
            {"role": "assistant", "content": [{"type": "output_text", "text": "b", "annotations": []}]},
            {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
            {"type": "function_call", "call_id": "c1", "name": "f", "arguments": '{"x": 1}'},
            {"type": "function_call_output", "call_id": "c1", "output": "7"},
            {"type": "function_call_output", "call_id": "c1", "output": [{"type": "input_text", "text": "8"}]},
        ],
    )
    [messages] = [call["messages"] for call in template.calls]
    assert [(message["role"], message["content"]) for message in messages] == [
        ("system", "d"),
        ("user", "a"),
        ("assistant", "b"),
        ("tool", "7"),
        ("tool", "8"),
    ]
    assert messages[2]["tool_calls"] == [
        {"id": "c1", "type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
    ]


async def test_kept_responses_are_read_listed_and_deleted(client):
    items = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    made = (await create(client, items)).json()
    path = f"/v1/responses/{made['id']}"
    assert (await client.get(path)).json() == made
    listed = (await client.get(f"{path}/input_items")).json()
    assert [item["content"][0]["text"] for item in listed["data"]] == ["c", "b", "a"]
    assert (listed["first_id"], listed["has_more"]) == (listed["data"][0]["id"], False)
    page = (await client.get(f"{path}/input_items", params={"order": "asc", "limit": 2})).json()
    assert ([item["content"][0]["text"] for item in page["data"]], page["has_more"]) == (["a", "b"], True)
    rest = await client.get(f"{path}/input_items", params={"order": "asc", "after": page["last_id"]})
    assert [item["content"][0]["text"] for item in rest.json()["data"]] == ["c"]
    again = [{"type": "item_reference", "id": made["output"][0]["id"]}, {"role": "user", "content": "d"}]
    assert (await create(client, again)).status_code == 200
    assert (await client.delete(path)).json() == {"id": made["id"], "object": "response", "deleted": True}
    missing = await client.get(path)
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "response_not_found")
    refused = await create(client, previous_response_id=made["id"])
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "previous_response_id")


async def test_what_is_not_to_be_stored_is_not(client):
    made = (await create(client, store=False)).json()
    assert made["store"] is False
    assert (await client.get(f"/v1/responses/{made['id']}")).status_code == 404


async def until(condition):
    while not condition():
        await asyncio.sleep(0.001)


async def until_ended(client, name):
    while (body := (await client.get(f"/v1/responses/{name}")).json())["status"] in ("queued", "in_progress"):
        await asyncio.sleep(0.001)
    return body


async def test_in_the_background(client, engine):
    engine.gate = asyncio.Event()
    made = (await create(client, background=True)).json()
    assert (made["status"], made["output"]) == ("queued", [])
    await until(lambda: engine.open)
    assert (await client.get(f"/v1/responses/{made['id']}")).json()["status"] == "in_progress"
    early = await create(client, previous_response_id=made["id"])
    assert early.json()["error"]["param"] == "previous_response_id"
    engine.gate.set()
    body = await until_ended(client, made["id"])
    assert (body["status"], body["output"][0]["content"][0]["text"]) == ("completed", "Hello wörld")
    assert (await create(client, previous_response_id=made["id"])).status_code == 200


async def test_cancelling_frees_the_engine_and_keeps_what_there_is(client, engine):
    engine.gate = asyncio.Event()
    made = (await create(client, background=True)).json()
    await until(lambda: engine.open == 1)
    body = (await client.post(f"/v1/responses/{made['id']}/cancel")).json()
    assert (body["status"], engine.open) == ("cancelled", 0)
    assert (await client.get(f"/v1/responses/{made['id']}")).json() == body
    assert (await client.post(f"/v1/responses/{made['id']}/cancel")).json() == body
    engine.gate = None
    made = await until_ended(client, (await create(client, background=True)).json()["id"])
    assert (await client.post(f"/v1/responses/{made['id']}/cancel")).json() == made, "it had ended already"
    whole = (await create(client)).json()
    assert (await client.post(f"/v1/responses/{whole['id']}/cancel")).status_code == 400


async def test_deleting_ends_what_runs(client, engine):
    engine.gate = asyncio.Event()
    made = (await create(client, background=True)).json()
    await until(lambda: engine.open)
    await client.delete(f"/v1/responses/{made['id']}")
    await until(lambda: not engine.open)
    assert (await client.get(f"/v1/responses/{made['id']}")).status_code == 404


async def test_background_events_are_read_again_from_any_of_them(client):
    found = events((await create(client, background=True, stream=True)).text)
    assert found[0][1]["response"]["status"] == "queued"
    name = found[0][1]["response"]["id"]
    path = f"/v1/responses/{name}"
    assert events((await client.get(path, params={"stream": "true"})).text) == found
    rest = (await client.get(path, params={"stream": "true", "starting_after": 3})).text
    assert [json.loads(block.split("data: ")[1])["sequence_number"] for block in rest.strip().split("\n\n")] == list(
        range(4, len(found))
    )
    plain = (await create(client)).json()
    assert (await client.get(f"/v1/responses/{plain['id']}", params={"stream": "true"})).status_code == 400


@pytest.mark.parametrize("background", [False, True])
async def test_a_failure_midway(client, engine, background):
    engine.fail_after, engine.error = 1, NonFiniteLogits("broken model")
    if background:
        body = await until_ended(client, (await create(client, background=True)).json()["id"])
        assert (body["status"], body["error"]) == ("failed", {"code": "server_error", "message": "broken model"})
        assert (await create(client, previous_response_id=body["id"])).json()["error"][
            "param"
        ] == "previous_response_id"
    else:
        response = await create(client)
        assert (response.status_code, response.json()["error"]["code"]) == (500, "non_finite_logits")
    found = events((await create(client, stream=True, background=background)).text)
    assert found[-1][0] == "response.failed"
    assert found[-1][1]["response"]["error"]["message"] == "broken model"


async def test_truncation_leaves_out_the_oldest_messages(client, engine, template):
    items = [{"role": "user", "content": letter * 60} for letter in "abcd"]
    assert (await create(client, items)).json()["error"]["code"] == "context_length_exceeded"
    assert (await create(client, items, truncation="auto", instructions="Be brief.")).status_code == 200
    assert len(engine.seen[0][0]) < 200
    assert [content[0] for _, content in seen_messages(template)[-1]] == ["B", "c", "d"]
    assert (await create(client, "a" * 300, truncation="auto")).status_code == 400


async def test_sampling_fields_reach_the_engine(client, engine):
    fields = {"top_k": 3, "seed": 5, "stop": ["x"], "repetition_penalty": 1.2, "ignore_eos": True, "min_tokens": 2}
    await create(client, max_output_tokens=30, priority=4, cache_salt="s", top_p=0.5, **fields)
    _, params, options = engine.seen[0]
    assert {name: getattr(params, name) for name in fields} == fields
    assert (params.max_tokens, params.top_p) == (30, 0.5)
    assert options == {"priority": 4, "cache_salt": "s"}


async def test_input_tokens(client, engine):
    counted = (await client.post("/v1/responses/input_tokens", json={"input": "hi", "instructions": "x"})).json()
    assert counted == {"object": "response.input_tokens", "input_tokens": len("system:x\nuser:hi\n")}
    assert engine.seen == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("input", None),
        ("input", []),
        ("input", [5]),
        ("input", [{"role": "robot", "content": "a"}]),
        ("input", [{"role": "user"}]),
        ("input", [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]),
        ("input", [{"type": "web_search_call"}]),
        ("input", [{"type": "function_call", "name": "f"}]),
        ("input", [{"type": "item_reference", "id": "msg_none"}]),
        ("input", "a" * 300),
        ("max_output_tokens", 0),
        ("max_tokens", 5),
        ("n", 2),
        ("top_logprobs", 21),
        ("temperature", -1),
        ("truncation", "some"),
        ("include", ["everything"]),
        ("text", {"format": {"type": "json_schema"}}),
        ("reasoning", {"effort": "high"}),
        ("tools", [{"type": "web_search"}]),
        ("tools", [{"type": "function", "function": {"name": "f"}}]),
        ("tools", [{"type": "function", "name": "f", "defer_loading": True}]),
        ("tools", [{"type": "function", "name": ""}]),
        ("tools", [{"type": "function", "name": "f", "strict": True, "parameters": {"not": {}}}]),
        ("tool_choice", "required"),
        ("tool_choice", {"type": "mcp"}),
        ("tool_choice", {"type": "allowed_tools", "mode": "auto", "tools": []}),
        ("conversation", "conv_1"),
        ("prompt", {"id": "pmpt_1"}),
        ("request_id", "a b"),
        ("stream_options", {"include_obfuscation": False}),
    ],
)
async def test_what_cannot_be_honoured_is_refused_by_name(client, engine, field, value):
    response = await client.post("/v1/responses", json={"input": "hi", field: value})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == field
    assert engine.seen == []


async def test_background_needs_the_store(client):
    assert (await create(client, background=True, store=False)).json()["error"]["param"] == "background"


async def test_a_client_that_leaves_ends_its_response(client, engine):
    engine.gate = asyncio.Event()
    task = asyncio.ensure_future(create(client, stream=False))
    await until(lambda: engine.open == 1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await until(lambda: not engine.open)


# -- calls of functions -----------------------------------------------------------------------------------------------

ADD = {
    "type": "function",
    "name": "add",
    "description": "Adds",
    "parameters": {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]},
    "strict": True,
}
NOW = {"type": "function", "name": "now", "parameters": None, "strict": None}
CALLS = ['{"name": "add", "argu', 'ments": {"x"', ": 1}}, ", '{"name": "now", "arguments": {}}']


async def test_calls_are_items(client, engine, template):
    engine.pieces = CALLS
    body = (await create(client, tools=[ADD, NOW], tool_choice="required", parallel_tool_calls=True)).json()
    assert (body["status"], body["tools"], body["tool_choice"]) == ("completed", [ADD, NOW], "required")
    shown = [(item["type"], item["status"], item["name"], item["arguments"]) for item in body["output"]]
    assert shown == [
        ("function_call", "completed", "add", '{"x": 1}'),
        ("function_call", "completed", "now", "{}"),
    ]
    ids = [(item["id"], item["call_id"]) for item in body["output"]]
    assert len({name for pair in ids for name in pair}) == 4
    function = {key: ADD[key] for key in ("name", "description", "parameters", "strict")}
    assert template.calls[0]["tools"] == [
        {"type": "function", "function": function},
        {"type": "function", "function": {"name": "now"}},
    ]
    structure = engine.seen[0][1].structure
    assert structure is not None
    assert not structure.waits


async def test_events_of_calls(client, engine):
    engine.pieces = CALLS
    found = events((await create(client, tools=[ADD, NOW], stream=True)).text)
    assert [name.removeprefix("response.") for name, _ in found] == [
        "created",
        "in_progress",
        "output_item.added",
        *["function_call_arguments.delta"] * 2,
        "function_call_arguments.done",
        "output_item.done",
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
        "completed",
    ]
    payloads = [payload for _, payload in found]
    added, done = payloads[2]["item"], payloads[6]["item"]
    assert (added["arguments"], added["status"]) == ("", "in_progress")
    assert added | {"arguments": '{"x": 1}', "status": "completed"} == done
    assert "".join(payload["delta"] for payload in payloads[3:5]) == payloads[5]["arguments"] == done["arguments"]
    assert [payload["output_index"] for payload in payloads[2:11]] == [0] * 5 + [1] * 4
    assert payloads[-1]["response"]["output"] == [done, payloads[10]["item"]]


async def test_text_beside_tools_is_a_message(client, engine):
    engine.pieces = ['{"name": "Bob"', "} is no call"]
    body = (await create(client, tools=[ADD])).json()
    [item] = body["output"]
    assert item["content"][0]["text"] == '{"name": "Bob"} is no call'
    engine.pieces = [""]
    [empty] = (await create(client, tools=[ADD])).json()["output"]
    assert empty["content"] == [{"type": "output_text", "text": "", "annotations": []}]


async def test_a_call_that_is_cut_is_incomplete(client, engine):
    engine.pieces = CALLS
    for stream in (False, True):
        response = await create(client, tools=[ADD], max_output_tokens=33, stream=stream)
        body = events(response.text)[-1][1]["response"] if stream else response.json()
        assert (body["status"], body["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
        [item] = body["output"]
        assert (item["type"], item["status"], item["arguments"]) == ("function_call", "incomplete", '{"x"')


async def test_results_of_calls_go_back(client, engine, template):
    engine.pieces = CALLS[:3]
    made = (await create(client, "one", tools=[ADD])).json()
    call = made["output"][0]["call_id"]
    engine.pieces = ["1"]
    output = {"type": "function_call_output", "call_id": call, "output": "2"}
    await create(client, [output], tools=[ADD], previous_response_id=made["id"])
    await create(client, [{"role": "user", "content": "one"}, *made["output"], output], tools=[ADD])
    for messages in (template.calls[1]["messages"], template.calls[2]["messages"]):
        assert [message["role"] for message in messages] == ["user", "assistant", "tool"]
        function = {"name": "add", "arguments": {"x": 1}}
        assert messages[1]["tool_calls"] == [{"id": call, "type": "function", "function": function}]
        assert (messages[2]["tool_call_id"], messages[2]["content"]) == (call, "2")


async def test_choices_of_tools(client, engine, template):
    engine.pieces = ['{"name": "add", "arguments": {"x": 1}}']
    both = [ADD, NOW]
    await create(client, tools=both, tool_choice="none")
    assert ("tools" in template.calls[-1], engine.seen[-1][1].structure) == (False, None)
    await create(client, tools=both, tool_choice={"type": "function", "name": "add"})
    assert not engine.seen[-1][1].structure.waits
    allowed = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "now"}]}
    [item] = (await create(client, tools=both, tool_choice=allowed)).json()["output"]
    assert item["type"] == "message", "add may not be called"
    assert len(template.calls[-1]["tools"]) == 2, "the prompt is the same, and found in the cache"
    assert engine.seen[-1][1].structure.waits
    allowed["mode"] = "required"
    await create(client, tools=both, tool_choice=allowed)
    assert 'pick_0: "now' in engine.seen[-1][1].structure.text


async def test_a_cancelled_stream_gets_its_last_event(client, engine):
    engine.gate = asyncio.Event()
    reading = asyncio.ensure_future(create(client, background=True, stream=True, request_id="mine"))
    await until(lambda: engine.open)
    engine.gate.set()
    engine.gate = asyncio.Event()
    await asyncio.sleep(0.01)
    assert not reading.done()
    body = (await client.post("/v1/responses/resp_mine/cancel")).json()
    found = events((await reading).text)
    assert [kind for kind, _ in found[-4:]] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.incomplete",
    ]
    assert found[-1][1]["response"] == body
    assert (body["status"], body["output"][0]["content"][0]["text"]) == ("cancelled", "Hel")
    assert body["incomplete_details"] is None
