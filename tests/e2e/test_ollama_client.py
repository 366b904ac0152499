"""Ollama's own client against a real server and a real model."""

import math

import ollama
import pytest

pytestmark = pytest.mark.model

PROMPT = "What is the capital of France? Answer in one word."
GREEDY = {"temperature": 0, "num_predict": 20}
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


@pytest.fixture(scope="module")
def llama(server):
    return ollama.Client(server.url)


def test_generate_whole_and_in_lines(llama):
    whole = llama.generate("smol", PROMPT, options=GREEDY)
    assert "Paris" in whole.response
    assert (whole.done, whole.done_reason) == (True, "stop")
    assert whole.eval_count > 0 < whole.prompt_eval_duration < whole.total_duration
    parts = list(llama.generate("smol:latest", PROMPT, options=GREEDY, stream=True))
    assert "".join(part.response for part in parts) == whole.response
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    assert parts[-1].eval_count == whole.eval_count


def test_raw_prompts_and_limits(llama):
    answer = llama.generate("smol", "def add(a, b):\n    return", raw=True, options={**GREEDY, "num_predict": 6})
    assert "a + b" in answer.response
    assert (answer.done_reason, answer.eval_count, answer.context) == ("length", 6, None)


def test_a_context_is_gone_on_from(llama):
    first = llama.generate("smol", "My name is Ada.", options=GREEDY)
    again = llama.generate("smol", "What is my name?", context=first.context, options=GREEDY)
    assert again.prompt_eval_count > len(first.context)
    assert again.context[: len(first.context)] == first.context


def test_chat_whole_and_in_lines(llama):
    messages = [{"role": "system", "content": "You are terse."}, {"role": "user", "content": PROMPT}]
    whole = llama.chat("smol", messages, options=GREEDY)
    assert "Paris" in whole.message.content
    parts = list(llama.chat("smol", messages, options=GREEDY, stream=True))
    assert "".join(part.message.content for part in parts) == whole.message.content
    assert (parts[-1].done_reason, parts[-1].eval_count) == (whole.done_reason, whole.eval_count)


def test_a_format_is_kept(llama):
    schema = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 20}}, "required": ["city"]}
    answer = llama.generate("smol", "Name a city.", format=schema, options={"temperature": 0, "num_predict": 60})
    assert answer.response.lstrip().startswith("{")
    assert '"city"' in answer.response


def test_tools(llama):
    messages = [{"role": "user", "content": "What is the weather in Paris?"}]
    answer = llama.chat("smol", messages, tools=[TOOL], options={"temperature": 0, "num_predict": 100})
    for call in answer.message.tool_calls or ():
        assert call.function.name == "get_weather"
        assert isinstance(call.function.arguments, dict)
        messages.append(answer.message)
        messages.append({"role": "tool", "tool_name": "get_weather", "content": "21 degrees"})
    if len(messages) > 1:
        assert llama.chat("smol", messages, tools=[TOOL], options=GREEDY).done


def test_embeddings(llama):
    answer = llama.embed("smol", ["a cat", "a dog"])
    assert len(answer.embeddings) == 2
    assert all(math.isclose(sum(x * x for x in vector), 1, rel_tol=1e-3) for vector in answer.embeddings)
    one = llama.embeddings("smol", "a cat").embedding
    length = math.sqrt(sum(x * x for x in one))
    assert one[0] / length == pytest.approx(answer.embeddings[0][0], abs=1e-4)


def test_what_is_served(llama):
    [model] = llama.list().models
    assert model.model == "smol"
    assert model.details.quantization_level == "Q4_1"
    assert model.details.parameter_size == "134.52M"
    [running] = llama.ps().models
    assert running.context_length == 1024
    shown = llama.show("smol")
    assert "completion" in shown.capabilities
    assert shown.modelinfo["llama.context_length"] == 1024


def test_loading_and_errors(llama):
    assert llama.generate("smol").done_reason == "load"
    with pytest.raises(ollama.ResponseError, match="not served here") as raised:
        llama.generate("nobody", "Hi")
    assert raised.value.status_code == 404
    with pytest.raises(ollama.ResponseError, match="the context is 1024 tokens"):
        llama.generate("smol", "x " * 2000)
    with pytest.raises(ollama.ResponseError, match="fill in the middle"):
        llama.generate("smol", "a", suffix="b")
