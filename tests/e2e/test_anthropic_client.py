"""Anthropic's own client against a real server and real models."""

import anthropic
import pytest

pytestmark = pytest.mark.model

MESSAGES = [{"role": "user", "content": "What is the capital of France? Answer in one word."}]
TOOL = {
    "name": "get_weather",
    "description": "The weather in a city.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


@pytest.fixture(scope="module")
def claude(server):
    with anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0) as client:
        yield client


def test_a_message(claude):
    answer = claude.messages.create(model="smol", max_tokens=20, messages=MESSAGES, extra_body={"temperature": 0})
    assert (answer.type, answer.role, answer.stop_reason) == ("message", "assistant", "end_turn")
    assert "Paris" in answer.content[0].text
    assert answer.usage.output_tokens > 0


def test_a_streamed_message_is_the_same(claude):
    fields = {"model": "smol", "max_tokens": 20, "messages": MESSAGES, "extra_body": {"temperature": 0}}
    whole = claude.messages.create(**fields)
    with claude.messages.stream(**fields) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_message()
    assert kinds[0] == "message_start"
    assert kinds[-1] == "message_stop"
    assert final.content[0].text == whole.content[0].text
    assert (final.stop_reason, final.usage.output_tokens) == (whole.stop_reason, whole.usage.output_tokens)


def test_stop_sequences_and_limits(claude):
    fields = {"model": "smol", "messages": [{"role": "user", "content": "Count: 1 2 3 4 5 6 7 8 9"}]}
    cut = claude.messages.create(**fields, max_tokens=3)
    assert cut.stop_reason == "max_tokens"
    stopped = claude.messages.create(**fields, max_tokens=60, stop_sequences=[" ", "\n"], extra_body={"temperature": 0})
    assert stopped.stop_reason == "stop_sequence"
    assert stopped.stop_sequence in (" ", "\n")


def test_a_tool_is_called_and_its_result_is_read(claude):
    question = {"role": "user", "content": "What is the weather in Paris?"}
    fields = {"model": "smol", "max_tokens": 200, "tools": [TOOL], "extra_body": {"temperature": 0}}
    choice = {"type": "tool", "name": "get_weather"}
    whole = claude.messages.create(**fields, messages=[question], tool_choice=choice)
    [call] = [block for block in whole.content if block.type == "tool_use"]
    assert whole.stop_reason == "tool_use"
    assert call.name == "get_weather"
    assert isinstance(call.input["city"], str)
    with claude.messages.stream(**fields, messages=[question], tool_choice=choice) as stream:
        final = stream.get_final_message()
    [streamed] = [block for block in final.content if block.type == "tool_use"]
    assert streamed.input == call.input
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "Sunny, 21 degrees."}
    messages = [question, {"role": "assistant", "content": whole.content}, {"role": "user", "content": [result]}]
    answer = claude.messages.create(**fields, messages=messages, tool_choice={"type": "none"})
    assert answer.content[0].type == "text"


def test_counting_tokens_and_what_the_cache_had(claude):
    messages = [{"role": "user", "content": "Tell me about prefix caches. " * 10}]
    counted = claude.messages.count_tokens(model="smol", messages=messages, system="Be brief.")
    fields = {"model": "smol", "max_tokens": 2, "messages": messages, "system": "Be brief."}
    claude.messages.create(**fields)
    usage = claude.messages.create(**fields).usage
    assert usage.cache_read_input_tokens >= 32
    assert usage.input_tokens + usage.cache_read_input_tokens == counted.input_tokens


def test_an_answer_that_was_begun_is_continued(claude):
    messages = [*MESSAGES, {"role": "assistant", "content": "The capital of France is"}]
    answer = claude.messages.create(model="smol", max_tokens=8, messages=messages, extra_body={"temperature": 0})
    assert "Paris" in answer.content[0].text


def test_models(claude):
    [model] = claude.models.list().data
    assert (model.id, model.type) == ("smol", "model")
    assert claude.models.retrieve("smol").id == "smol"


def test_errors_are_of_the_kinds_that_it_knows(claude):
    with pytest.raises(anthropic.NotFoundError, match="claude"):
        claude.messages.create(model="claude", max_tokens=5, messages=MESSAGES)
    with pytest.raises(anthropic.BadRequestError, match="max_tokens"):
        claude.messages.create(model="smol", max_tokens=0, messages=MESSAGES)
    long = [{"role": "user", "content": "x " * 2000}]
    with pytest.raises(anthropic.BadRequestError, match="the context is 1024 tokens"):
        claude.messages.create(model="smol", max_tokens=5, messages=long)
