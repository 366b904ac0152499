"""Fields of Ollama's, Anthropic's and Hugging Face's clients beyond the common ones, each by what it does."""

import json

import anthropic
import ollama
import pytest
from huggingface_hub import InferenceClient

pytestmark = pytest.mark.model

CODE = "def add(a, b):\n    return"
ONES = "1 1 1 1 1 1 1 1"
CAPITAL = [{"role": "user", "content": "What is the capital of France? Answer in one word."}]
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 20}},
    "required": ["city"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def llama(server):
    return ollama.Client(server.url)


@pytest.fixture(scope="module")
def claude(server):
    with anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def hub(server):
    return InferenceClient(server.url, timeout=60)


# Ollama


def raw(llama, prompt=CODE, **options):
    return llama.generate("smol", prompt, raw=True, options={"num_predict": 8, **options}).response


@pytest.mark.parametrize("name", ["top_k", "top_p"])
def test_ollamas_filters_that_leave_one_token_are_greedy(llama, name):
    value = 1 if name == "top_k" else 1e-6
    assert raw(llama, temperature=1, **{name: value}) == raw(llama, temperature=0)


def test_ollamas_seed_stop_and_context(llama):
    first, again = (raw(llama, temperature=1, seed=7, num_ctx=512) for _ in range(2))
    assert first == again
    assert raw(llama, typical_p=1e-6) == raw(llama, typical_p=1e-6, seed=1), "one token is left, not the likeliest"
    assert raw(llama, temperature=0, stop=[" b"]) == " a +"


@pytest.mark.parametrize("name", ["repeat_penalty", "presence_penalty", "frequency_penalty"])
def test_ollamas_penalties_end_repetition(llama, name):
    assert set(raw(llama, ONES, temperature=0)) == {" ", "1"}
    assert set(raw(llama, ONES, temperature=0, **{name: 2.0})) != {" ", "1"}


def test_ollamas_chat_in_a_format_with_log_probabilities(llama):
    options = {"temperature": 0, "num_predict": 60}
    answer = llama.chat("smol", CAPITAL, format=CITY, keep_alive="5m", think=False, options=options)
    assert isinstance(json.loads(answer.message.content)["city"], str)
    answer = llama.chat("smol", CAPITAL, logprobs=True, top_logprobs=2, options=options)
    assert len(answer.logprobs) == answer.eval_count
    assert all(len(one.top_logprobs) == 2 for one in answer.logprobs)


def test_ollamas_system_prompt(llama):
    options = {"temperature": 0, "num_predict": 8}
    plain, told = (llama.generate("smol", "Hi", system=system, options=options) for system in (None, "Be brief." * 9))
    assert told.prompt_eval_count != plain.prompt_eval_count


# Anthropic


def test_anthropics_filters_that_leave_one_token_are_greedy(claude):
    fields = {"model": "smol", "max_tokens": 8, "messages": CAPITAL, "system": [{"type": "text", "text": "Be brief."}]}
    texts = {
        claude.messages.create(**fields, extra_body=filters).content[0].text
        for filters in ({"temperature": 0}, {"top_k": 1}, {"top_p": 1e-6})
    }
    assert len(texts) == 1


def test_anthropics_structured_output(claude):
    answer = claude.messages.create(
        model="smol",
        max_tokens=60,
        messages=CAPITAL,
        extra_body={"temperature": 0, "output_config": {"format": {"type": "json_schema", "schema": CITY}}},
        metadata={"user_id": "me"},
        thinking={"type": "disabled"},
    )
    assert isinstance(json.loads(answer.content[0].text)["city"], str)


# Hugging Face


@pytest.mark.parametrize("name", ["top_k", "top_p"])
def test_the_hubs_filters_that_leave_one_token_are_greedy(hub, name):
    fields = {"max_new_tokens": 8, "return_full_text": False}
    value = 1 if name == "top_k" else 1e-6
    sampled = hub.text_generation(CODE, do_sample=True, temperature=1.0, **{name: value}, **fields)
    assert sampled == hub.text_generation(CODE, **fields)


def test_the_hubs_seed_stop_penalties_and_truncation(hub):
    fields = {"max_new_tokens": 8, "return_full_text": False}
    first, again = (hub.text_generation(CODE, do_sample=True, seed=7, **fields) for _ in range(2))
    assert first == again
    typical = {hub.text_generation(CODE, do_sample=True, typical_p=1e-6, seed=seed, **fields) for seed in (1, 2)}
    assert len(typical) == 1
    assert hub.text_generation(CODE, stop=[" b"], **fields) == " a + b"
    assert set(hub.text_generation(ONES, **fields)) == {" ", "1"}
    for penalty in ({"repetition_penalty": 2.0}, {"frequency_penalty": 2.0}):
        assert set(hub.text_generation(ONES, **penalty, **fields)) != {" ", "1"}
    details = hub.text_generation("x " * 50 + CODE, truncate=9, details=True, decoder_input_details=True, **fields)
    assert len(details.details.prefill) == 9


def test_the_hubs_chat_fields(hub):
    fields = {"max_tokens": 60, "temperature": 0.0}
    schema = {"type": "json_schema", "json_schema": {"name": "city", "schema": CITY}}
    answer = hub.chat_completion(CAPITAL, response_format=schema, **fields)
    assert isinstance(json.loads(answer.choices[0].message.content)["city"], str)
    answer = hub.chat_completion(CAPITAL, logprobs=True, top_logprobs=2, n=2, seed=1, stop=["."], **fields)
    assert len(answer.choices) == 2
    assert all(len(one.top_logprobs) == 2 for one in answer.choices[0].logprobs.content)
    tool = {"type": "function", "function": {"name": "look_up", "description": "Look it up.", "parameters": CITY}}
    answer = hub.chat_completion(CAPITAL, tools=[tool], tool_choice="required", **fields)
    assert answer.choices[0].message.tool_calls[0].function.name == "look_up"
