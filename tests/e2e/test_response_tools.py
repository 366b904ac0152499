"""Functions in the Responses protocol, through the official openai client, a real server and a small real model."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import openai
import pytest

from .conftest import ServerProcess

pytestmark = [pytest.mark.model, pytest.mark.slow]

CITY: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 20}, "unit": {"enum": ["C", "F"]}},
    "required": ["city", "unit"],
    "additionalProperties": False,
}
TOOLS: Any = [
    {"type": "function", "name": "get_weather", "description": "Weather of a city", "parameters": CITY, "strict": True},
    {"type": "function", "name": "get_time", "parameters": None, "strict": None},
]
ASK: Any = {"model": "smol", "input": "What is the weather in Paris?", "temperature": 0, "tools": TOOLS}
FORCED: Any = {**ASK, "tool_choice": {"type": "function", "name": "get_weather"}}


def test_a_function_is_called_and_its_result_goes_back(client: openai.OpenAI) -> None:
    first = client.responses.create(**FORCED)
    assert first.status == "completed"
    [call] = first.output
    assert call.type == "function_call"
    assert call.name == "get_weather"
    jsonschema.validate(json.loads(call.arguments), CITY)
    result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "18 degrees, sunny"}
    fields: Any = {"model": "smol", "temperature": 0, "tools": TOOLS, "tool_choice": "none", "max_output_tokens": 30}
    second = client.responses.create(**fields, input=[result], previous_response_id=first.id)
    items = [item.model_dump(exclude_none=True) for item in first.output]
    by_hand = client.responses.create(**fields, input=[{"role": "user", "content": ASK["input"]}, *items, result])
    assert second.output_text == by_hand.output_text
    assert second.usage is not None
    assert by_hand.usage is not None
    assert second.usage.input_tokens == by_hand.usage.input_tokens


@pytest.mark.parametrize("choice", ["auto", "required", FORCED["tool_choice"]])
def test_streamed_calls_are_the_whole_ones(client: openai.OpenAI, choice: Any) -> None:
    """The client's own state machine checks the order and the identities of events."""
    most = 24 if choice == "auto" else 80
    fields: Any = {**ASK, "tool_choice": choice, "parallel_tool_calls": False, "max_output_tokens": most}
    whole = client.responses.create(**fields)
    with client.responses.stream(**fields) as stream:
        events = list(stream)
        final = stream.get_final_response() if whole.status == "completed" else events[-1].response  # type: ignore[union-attr]
    assert [item.type for item in final.output] == [item.type for item in whole.output]
    calls = [item for item in whole.output if item.type == "function_call"]
    streamed = [item for item in final.output if item.type == "function_call"]
    assert [(call.name, call.arguments) for call in streamed] == [(call.name, call.arguments) for call in calls]
    pieces = [event.delta for event in events if event.type == "response.function_call_arguments.delta"]
    assert "".join(pieces) == "".join(call.arguments for call in calls)
    ends = [event.arguments for event in events if event.type == "response.function_call_arguments.done"]
    assert ends == [call.arguments for call in calls]
    if choice != "auto":
        assert len(calls) == 1


def test_arguments_parsed_by_the_client(client: openai.OpenAI) -> None:
    from pydantic import BaseModel

    class City(BaseModel):
        name: str
        large: bool

    response = client.responses.parse(
        model="smol",
        input="Describe Paris.",
        temperature=0,
        tools=[openai.pydantic_function_tool(City)],  # type: ignore[list-item]
        tool_choice="required",
        parallel_tool_calls=False,
        max_output_tokens=80,
    )
    [call] = response.output
    assert call.type == "function_call"
    assert isinstance(call.parsed_arguments, City)


def test_a_cancelled_stream_ends(client: openai.OpenAI, server: ServerProcess) -> None:
    fields: Any = {"model": "smol", "input": "Count.", "max_output_tokens": 900, "extra_body": {"ignore_eos": True}}
    with client.responses.create(**fields, background=True, stream=True) as stream:
        events = iter(stream)
        name = next(events).response.id  # type: ignore[union-attr]
        next(event for event in events if event.type == "response.output_text.delta")
        cancelled = client.responses.cancel(name)
        *_, done, last = events
    assert cancelled.status == "cancelled"
    assert done.type == "response.output_item.done"
    assert last.type == "response.incomplete"
    assert last.response.status == "cancelled"
    assert last.response.output_text == cancelled.output_text
    server.until_idle()
