"""Tools, structures and reasoning over HTTP, with a model that writes what the test says."""

from __future__ import annotations

import json

import pytest

from befit.structure import Structure

MESSAGES = [{"role": "user", "content": "hi"}]
PARAMETERS = {"type": "object", "properties": {"x": {"type": "integer"}}}
TOOLS = [
    {"type": "function", "function": {"name": "f", "parameters": PARAMETERS}},
    {"type": "function", "function": {"name": "g"}},
]
CALLS = (
    '<tool_call>\n{"name": "f", "arguments": {"x": 12}}\n</tool_call>\n'
    '<tool_call>\n{"name": "g", "arguments": {}}\n</tool_call>'
)
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


@pytest.fixture
def template(template):
    template.tool_text = "<tool_call>"
    return template


async def chat(client, **body):
    return await client.post("/v1/chat/completions", json={"messages": MESSAGES, **body})


async def chunks(client, **body):
    response = await chat(client, stream=True, **body)
    assert response.status_code == 200, response.text
    return [json.loads(line.removeprefix("data: ")) for line in response.text.strip().split("\n\n")[:-1]]


async def test_calls_in_an_answer(client, engine, template):
    engine.pieces = ["Let me see. ", CALLS[:20], CALLS[20:]]
    body = (await chat(client, tools=TOOLS)).json()
    [choice] = body["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] == "Let me see."
    first, second = choice["message"]["tool_calls"]
    assert first["type"] == second["type"] == "function"
    assert first["function"] == {"name": "f", "arguments": '{"x": 12}'}
    assert second["function"] == {"name": "g", "arguments": "{}"}
    assert first["id"] != second["id"]
    assert template.calls[0]["tools"] == TOOLS


async def test_only_calls_have_no_content(client, engine):
    engine.pieces = [CALLS]
    assert (await chat(client, tools=TOOLS)).json()["choices"][0]["message"]["content"] is None


async def test_streamed_calls(client, engine):
    engine.pieces = [
        "Well",
        ". <",
        "tool_call>\n{",
        '"name": "f", "arguments": {"x": 1',
        "2}}\n</tool",
        "_call>",
        "\n" + CALLS.split("\n", 3)[3],
    ]
    found = await chunks(client, tools=TOOLS)
    deltas = [chunk["choices"][0]["delta"] for chunk in found]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert "".join(delta.get("content", "") for delta in deltas) == "Well."
    parts = [part for delta in deltas for part in delta.get("tool_calls", [])]
    assert [part["index"] for part in parts] == [0, 0, 0, 1, 1]
    assert parts[0]["id"].startswith("call_")
    assert parts[0]["function"] == {"name": "f", "arguments": ""}
    assert [part["function"]["arguments"] for part in parts[1:3]] == ['{"x": 1', "2}"]
    assert parts[3]["function"] == {"name": "g", "arguments": ""}
    assert parts[4] == {"index": 1, "function": {"arguments": "{}"}}
    assert [chunk["choices"][0]["finish_reason"] for chunk in found[-2:]] == [None, "tool_calls"]


async def test_a_cut_call_is_a_matter_of_length(client, engine):
    engine.pieces = ['<tool_call>{"name": "f", "arguments": {"x": 123456']
    [choice] = (await chat(client, tools=TOOLS, max_tokens=48)).json()["choices"]
    assert choice["finish_reason"] == "length"
    assert choice["message"]["tool_calls"][0]["function"]["arguments"] == '{"x": 1234'


async def test_streamed_choices_and_logprobs_beside_calls(client, engine):
    engine.pieces = ["ab", CALLS]
    found = await chunks(
        client, tools=TOOLS, n=2, logprobs=True, top_logprobs=1, stream_options={"include_usage": True}
    )
    assert found[-1]["usage"]["completion_tokens"] == 2 * len("ab" + CALLS)
    for index in (0, 1):
        mine = [chunk["choices"][0] for chunk in found[:-1] if chunk["choices"][0]["index"] == index]
        assert sum(len(one["logprobs"]["content"]) for one in mine if one["logprobs"]) == len("ab" + CALLS)
        assert mine[-1]["finish_reason"] == "tool_calls"


async def test_without_tools_calls_are_text(client, engine):
    engine.pieces = [CALLS]
    for fields in ({}, {"tools": TOOLS, "tool_choice": "none"}, {"tools": []}):
        [choice] = (await chat(client, **fields)).json()["choices"]
        assert (choice["message"]["content"], choice["finish_reason"]) == (CALLS, "stop")


async def structure_of(client, engine, **fields) -> Structure:
    response = await chat(client, **fields)
    assert response.status_code == 200, response.text
    return engine.seen[-1][1].structure


async def test_choice_of_tools_becomes_a_structure(client, engine):
    auto = await structure_of(client, engine, tools=TOOLS)
    assert (auto.after, auto.again) == ("<tool_call>", True)
    one = await structure_of(client, engine, tools=TOOLS, parallel_tool_calls=False)
    assert (one.after, one.again) == ("<tool_call>", False)
    required = await structure_of(client, engine, tools=TOOLS, tool_choice="required")
    assert required.after == ""
    named = await structure_of(client, engine, tools=TOOLS, tool_choice={"type": "function", "function": {"name": "g"}})
    assert '"g' in named.text.replace("\\", "")
    assert '"f' not in named.text.replace("\\", "")


async def test_schemas_of_optional_tools_never_fail_a_request(client, engine):
    parameters = {"type": "object", "properties": {"x": {"enum": []}}, "required": ["x"]}
    broken = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    assert await structure_of(client, engine, tools=[broken]) is None
    assert (await chat(client, tools=[broken], tool_choice="required")).status_code == 400
    broken["function"]["strict"] = True
    assert (await chat(client, tools=[broken])).status_code == 400


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": {"type": "json_object"}}, "json"),
        ({"response_format": {"type": "json_object", "schema": SCHEMA}}, "json"),
        ({"response_format": {"type": "json_object", "value": SCHEMA}}, "json"),
        ({"response_format": {"type": "json", "value": SCHEMA}}, "json"),
        ({"response_format": {"type": "regex", "value": "a+"}}, "regex"),
        ({"response_format": {"type": "json_schema", "json_schema": {"strict": True, "schema": SCHEMA}}}, "json"),
        ({"structured_outputs": {"json": SCHEMA}}, "json"),
        ({"structured_outputs": {"json": json.dumps(SCHEMA), "disable_any_whitespace": True}}, "json"),
        ({"structured_outputs": {"json_object": True, "whitespace_pattern": " ?"}}, "json"),
        ({"structured_outputs": {"regex": "a+", "choice": None}}, "regex"),
        ({"structured_outputs": {"choice": ["a", "b"]}}, "grammar"),
        ({"structured_outputs": {"grammar": 'root ::= "a"'}}, "grammar"),
        ({"structured_outputs": {}}, None),
        ({"guided_json": SCHEMA, "guided_whitespace_pattern": ""}, "json"),
        ({"guided_regex": "a|b"}, "regex"),
        ({"guided_choice": ["x"]}, "grammar"),
        ({"guided_grammar": 'start: "a"', "guided_decoding_backend": "guidance"}, "grammar"),
        ({"grammar": 'root ::= "a"'}, "grammar"),
        ({"json_schema": SCHEMA}, "json"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_every_way_to_ask_for_a_structure(client, engine, path, fields, kind):
    asked = {"messages": MESSAGES} if "chat" in path else {"prompt": "x"}
    response = await client.post(path, json={**asked, **fields})
    assert response.status_code == 200, response.text
    structure = engine.seen[-1][1].structure
    assert (structure and structure.kind) == kind


@pytest.mark.parametrize(
    ("fields", "param", "says"),
    [
        ({"response_format": {"type": "xml"}}, "response_format", "xml"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "n"}}}, "response_format", "is missing"),
        ({"response_format": {"type": "json_schema", "schema": {"not": {}}}}, "response_format", "not"),
        ({"structured_outputs": {"structural_tag": "x"}}, "structured_outputs", "structural_tag"),
        ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "structured_outputs", "choice and regex"),
        ({"guided_json": "{", "temperature": 0}, "guided_json", "JSON"),
        ({"guided_json": 5}, "guided_json", "object"),
        ({"guided_regex": "("}, "guided_regex", "unclosed"),
        ({"guided_choice": []}, "guided_choice", "list of strings"),
        ({"guided_grammar": ""}, "guided_grammar", "empty"),
        ({"guided_regex": "a", "guided_choice": ["b"]}, "guided_regex", "send one"),
        ({"guided_regex": "a", "min_tokens": 5}, "min_tokens", "structure"),
        ({"guided_decoding_backend": "outlines"}, "guided_decoding_backend", "outlines"),
        ({"tools": TOOLS, "guided_regex": "a"}, "guided_regex", "tools"),
    ],
)  # fmt: skip
async def test_what_cannot_be_had_is_refused_by_name(client, engine, fields, param, says):
    response = await chat(client, **fields)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["param"] == param
    assert says in error["message"]
    assert not engine.seen


@pytest.fixture
def thinking(app):
    """The model has <think> and </think> in its vocabulary."""
    from befit.api.reasoning import ReasoningFormat

    app.state.fleet.services[0].reasoning = ReasoningFormat("<think>", "</think>", ())


async def test_reasoning_has_its_own_field(client, engine, thinking):
    engine.pieces = ["<think>\nhm", "m\n</th", "ink>\n\nYes", "."]
    message = (await chat(client)).json()["choices"][0]["message"]
    assert (message["reasoning"], message["reasoning_content"], message["content"]) == ("hmm", "hmm", "Yes.")
    deltas = [chunk["choices"][0]["delta"] for chunk in await chunks(client)]
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == "hmm"
    assert "".join(delta.get("reasoning", "") for delta in deltas) == "hmm"
    assert "".join(delta.get("content", "") for delta in deltas) == "Yes."
    message = (await chat(client, include_reasoning=False)).json()["choices"][0]["message"]
    assert "reasoning" not in message
    assert message["content"] == "Yes."


async def test_a_prompt_may_open_the_thoughts(client, engine, thinking):
    engine.pieces = ["hm</think>Yes"]
    message = (await chat(client, messages=[{"role": "user", "content": "x <think>"}])).json()["choices"][0]["message"]
    assert (message["reasoning"], message["content"]) == ("hm", "Yes")


async def test_structures_begin_behind_the_thoughts(client, engine, thinking):
    structure = await structure_of(client, engine, response_format={"type": "json_object"})
    assert (structure.opening, structure.after) == ("<think>", "</think>")
    opened = [{"role": "user", "content": "<think>"}]
    structure = await structure_of(client, engine, messages=opened, guided_regex="a")
    assert (structure.kind, structure.opening, structure.after) == ("regex", "", "</think>")
    structure = await structure_of(client, engine, tools=TOOLS)
    assert structure.after == "<tool_call>"


async def test_responses_take_a_format_for_their_text(client, engine):
    form = {"type": "json_schema", "name": "n", "strict": True, "schema": SCHEMA}
    response = await client.post("/v1/responses", json={"input": "hi", "text": {"format": form}})
    assert response.status_code == 200, response.text
    assert response.json()["text"]["format"] == form
    assert engine.seen[-1][1].structure.kind == "json"
    refused = await client.post(
        "/v1/responses", json={"input": "hi", "text": {"format": {**form, "schema": {"not": {}}}}}
    )
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "text"


async def test_closing_at_the_limit_can_be_declined_beside_any_structure(client, engine):
    wanted = {"type": "json_schema", "json_schema": {"name": "s", "schema": SCHEMA}}
    for given, closes in (({}, True), ({"structured_outputs": {"close_at_limit": False}}, False)):
        assert (await chat(client, response_format=wanted, **given)).status_code == 200
        params = engine.seen[-1][1]
        assert params.structure is not None
        assert params.close_at_limit is closes
    refused = await chat(client, structured_outputs={"close_at_limit": "no"})
    assert refused.status_code == 400
    assert "close_at_limit" in refused.json()["error"]["message"]
