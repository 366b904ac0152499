"""Structures and tool calls through the official openai client, with a real server and a small real model."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from random import Random
from typing import Any

import jsonschema
import openai
import pytest

from support.schemas import random_schema

pytestmark = [pytest.mark.model, pytest.mark.slow]

CITY = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 20}, "unit": {"enum": ["C", "F"]}},
    "required": ["city", "unit"],
    "additionalProperties": False,
}
TOOLS: Any = [
    {"type": "function", "function": {"name": "get_weather", "description": "Weather of a city", "parameters": CITY}},
    {"type": "function", "function": {"name": "get_time", "description": "The time of day"}},
]
ASK: Any = [{"role": "user", "content": "What is the weather in Paris?"}]


def response_format(schema: dict[str, Any]) -> Any:
    return {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}}


def test_response_format(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="smol", messages=ASK, temperature=1, seed=1, max_tokens=200, response_format=response_format(CITY)
    )
    jsonschema.validate(json.loads(answer.choices[0].message.content or ""), CITY)
    assert answer.choices[0].finish_reason == "stop"
    anything = client.chat.completions.create(
        model="smol", messages=ASK, temperature=0, max_tokens=100, response_format={"type": "json_object"}
    )
    if anything.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(anything.choices[0].message.content or ""), dict)


def test_parse_into_a_pydantic_model(client: openai.OpenAI) -> None:
    from pydantic import BaseModel

    class City(BaseModel):
        name: str
        population: int
        capital: bool

    answer = client.chat.completions.parse(
        model="smol", messages=ASK, temperature=0, max_tokens=200, response_format=City
    )
    assert isinstance(answer.choices[0].message.parsed, City)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
def test_forced_calls(client: openai.OpenAI, choice: Any) -> None:
    fields: Any = {
        "model": "smol",
        "messages": ASK,
        "tools": TOOLS,
        "tool_choice": choice,
        "parallel_tool_calls": False,
        "temperature": 1,
        "seed": 2,
    }
    [whole] = client.chat.completions.create(**fields).choices
    assert whole.finish_reason == "tool_calls"
    assert whole.message.content is None
    [call] = whole.message.tool_calls or []
    schema = CITY if call.function.name == "get_weather" else {"const": {}}
    jsonschema.validate(json.loads(call.function.arguments), schema)

    with client.chat.completions.stream(**fields) as stream:
        final = stream.get_final_completion().choices[0]
    [streamed] = final.message.tool_calls or []
    assert (streamed.function.name, streamed.function.arguments) == (call.function.name, call.function.arguments)
    assert final.finish_reason == "tool_calls"


def test_a_conversation_with_results_of_tools(client: openai.OpenAI) -> None:
    call = {
        "id": "c1",
        "type": "function",
        "function": {"name": "get_weather", "arguments": '{"city": "Paris", "unit": "C"}'},
    }
    messages: Any = [
        *ASK,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "18 C, sunny"},
    ]
    answer = client.chat.completions.create(
        model="smol", messages=messages, tools=TOOLS, tool_choice="none", temperature=0, max_tokens=40
    )
    assert answer.choices[0].message.content


def test_many_structures_and_plain_requests_at_once(client: openai.OpenAI) -> None:
    """Masks of one request do not reach another, and drafts of speculation obey them."""

    def ask(seed: int) -> None:
        schema = random_schema(Random(seed))
        answer = client.chat.completions.create(
            model="smol",
            messages=ASK,
            temperature=1,
            seed=seed,
            max_tokens=60,
            response_format=response_format(schema),
        )
        if answer.choices[0].finish_reason == "stop":
            jsonschema.validate(json.loads(answer.choices[0].message.content or ""), schema)

    def plain(seed: int) -> str:
        answer = client.chat.completions.create(model="smol", messages=ASK, temperature=0, max_tokens=24)
        return answer.choices[0].message.content or ""

    alone = plain(0)
    with ThreadPoolExecutor(8) as pool:
        beside = [pool.submit(plain, 0) for _ in range(4)]
        list(pool.map(ask, range(12)))
        assert {one.result() for one in beside} == {alone}


@pytest.mark.parametrize(
    "fields",
    [
        {
            "response_format": response_format(
                {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}}
            )
        },
        {"extra_body": {"structured_outputs": {"regex": "(?<=x)y"}}},
        {"extra_body": {"guided_grammar": "start: nothing"}},
        {"extra_body": {"guided_regex": "((((a{1000}){1000}){1000}){1000}){1000}"}},
        {"extra_body": {"structured_outputs": {"json": {"enum": [f"value {i}" for i in range(100000)]}}}},
    ],
    ids=["keyword", "regex", "grammar", "catastrophe", "huge"],
)
def test_structures_that_cannot_be_had(client: openai.OpenAI, server: Any, fields: Any) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="smol", messages=ASK, max_tokens=10, **fields)
    assert refused.value.code in ("unsupported_field", "invalid_request")
    assert refused.value.param
    assert server.http.get("/health").status_code == 200


def test_completions_take_structures_too(client: openai.OpenAI) -> None:
    answer = client.completions.create(
        model="smol", prompt="The answer is", temperature=1, extra_body={"guided_choice": ["yes", "no"]}
    )
    assert answer.choices[0].text in ("yes", "no")
