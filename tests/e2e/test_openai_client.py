"""The official openai client against a real server and a real model."""

import asyncio
import math

import openai
import pytest

pytestmark = pytest.mark.model

MESSAGES = [{"role": "user", "content": "What is the capital of France? Answer in one word."}]
PROMPT = "def add(a, b):\n    return"


def test_models(client):
    [model] = client.models.list().data
    assert (model.id, model.max_model_len) == ("smol", 1024)
    assert client.models.retrieve("smol").id == "smol"


def test_chat(client):
    answer = client.chat.completions.create(model="smol", messages=MESSAGES, temperature=0, max_tokens=20)
    [choice] = answer.choices
    assert "Paris" in choice.message.content
    assert choice.message.role == "assistant"
    assert choice.finish_reason == "stop"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_streamed_chat_is_the_same_text(client):
    fields = {"model": "smol", "messages": MESSAGES, "temperature": 0, "max_tokens": 20}
    whole = client.chat.completions.create(**fields)
    chunks = list(client.chat.completions.create(**fields, stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content for chunk in chunks[:-1]) == whole.choices[0].message.content
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_a_repeated_prompt_is_found_in_the_prefix_cache(client):
    messages = [{"role": "user", "content": "Tell me about prefix caches. " * 10}]
    fields = {"model": "smol", "messages": messages, "max_tokens": 2}
    client.chat.completions.create(**fields)
    again = client.chat.completions.create(**fields)
    assert again.usage.prompt_tokens_details.cached_tokens >= 32


def test_completions_of_text_and_of_token_ids_agree(client):
    fields = {"model": "smol", "temperature": 0, "max_tokens": 8}
    by_text = client.completions.create(**fields, prompt=PROMPT, extra_body={"return_token_ids": True})
    ids = by_text.choices[0].prompt_token_ids
    by_ids = client.completions.create(**fields, prompt=ids)
    assert by_text.choices[0].text == by_ids.choices[0].text
    assert by_text.usage.prompt_tokens == len(ids)
    assert "a + b" in by_text.choices[0].text


def test_an_answer_that_repeats_itself_ends_where_that_is_wanted(client, server):
    fields = {"model": "smol", "prompt": "def test_add():", "temperature": 0, "max_tokens": 200}
    looping = client.completions.create(**fields).choices[0]
    guarded = client.completions.create(**fields, extra_body={"loop_guard": True}).choices[0]
    assert looping.finish_reason == "length"
    assert (guarded.finish_reason, guarded.model_extra["stop_reason"]) == ("stop", "repetition_detected")
    assert looping.text.startswith(guarded.text)
    assert server.metric("repetition_stops_total") >= 1


def test_several_prompts_and_choices(client):
    fields = {"model": "smol", "max_tokens": 4, "seed": 1}
    answer = client.completions.create(**fields, prompt=["one", "two"], n=3)
    assert [choice.index for choice in answer.choices] == list(range(6))
    texts = [""] * 6
    for chunk in client.completions.create(**fields, prompt=["one", "two"], n=3, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == [choice.text for choice in answer.choices]


def test_stop_strings_are_trimmed(client):
    fields = {"model": "smol", "prompt": "1, 2, 3, 4,", "temperature": 0, "max_tokens": 20}
    free = client.completions.create(**fields).choices[0].text
    assert " 8" in free
    stopped = client.completions.create(**fields, stop=["zzz", " 8"]).choices[0]
    assert stopped.text == free[: free.index(" 8")]
    assert (stopped.finish_reason, stopped.stop_reason) == ("stop", " 8")


def test_logprobs(client):
    [choice] = client.completions.create(
        model="smol", prompt=PROMPT, echo=True, logprobs=3, max_tokens=4, temperature=0
    ).choices
    block = choice.logprobs
    assert "".join(block.tokens) == choice.text
    assert block.token_logprobs[0] is None
    assert all(value <= 0 for value in block.token_logprobs[1:])
    assert all(choice.text[at:].startswith(token) for token, at in zip(block.tokens, block.text_offset, strict=True))
    assert max(block.top_logprobs[-1].values()) == block.token_logprobs[-1], "greedy takes the likeliest"
    [choice] = client.chat.completions.create(
        model="smol", messages=MESSAGES, logprobs=True, top_logprobs=5, max_tokens=3
    ).choices
    for token in choice.logprobs.content:
        assert len(token.top_logprobs) == 5
        assert sum(math.exp(other.logprob) for other in token.top_logprobs) <= 1.001


def test_a_seed_repeats_the_answer_beside_other_requests(client):
    def ask(seed):
        return client.completions.create(model="smol", prompt="Once upon", max_tokens=12, seed=seed).choices[0].text

    alone = ask(7)
    assert ask(7) == alone
    assert ask(8) != alone


async def test_sixteen_at_once(server):
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="dummy", max_retries=0) as client:

        async def ask(number: int) -> str:
            text = ""
            stream = await client.completions.create(
                model="smol", prompt=f"The number {number} is", seed=number, max_tokens=16, stream=True
            )
            async for chunk in stream:
                text += chunk.choices[0].text
            return text

        together = await asyncio.gather(*(ask(number) for number in range(16)))
        alone = [await ask(number) for number in (0, 9)]
    assert [together[0], together[9]] == alone


@pytest.mark.parametrize(
    ("fields", "error", "param", "code"),
    [
        ({"model": "gpt-4"}, openai.NotFoundError, "model", "model_not_found"),
        ({"temperature": -1}, openai.BadRequestError, "temperature", "invalid_request"),
        ({"modalities": ["audio"]}, openai.BadRequestError, "modalities", "unsupported_field"),
        ({"messages": [{"role": "user", "content": "a " * 3000}]}, openai.BadRequestError, "messages", None),
        ({"logit_bias": {"99999999": 1}}, openai.BadRequestError, "logit_bias", "invalid_request"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_refusals(client, fields, error, param, code, stream):
    with pytest.raises(error) as caught:
        client.chat.completions.create(**{"model": "smol", "messages": MESSAGES, "stream": stream, **fields})
    assert caught.value.param == param
    assert caught.value.code == (code or "context_length_exceeded")


def test_closing_a_stream_frees_its_pages(client, server):
    stream = client.completions.create(
        model="smol", prompt="Once", max_tokens=900, stream=True, extra_body={"ignore_eos": True}
    )
    next(stream)
    assert server.metric("num_requests_running") == 1
    stream.close()
    server.until_idle()


async def test_cancelling_a_whole_answer_frees_its_pages(server):
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="dummy", max_retries=0) as client:
        call = client.completions.create(model="smol", prompt="Once", max_tokens=900, extra_body={"ignore_eos": True})
        task = asyncio.ensure_future(call)
        while await asyncio.to_thread(server.metric, "num_requests_running") == 0:
            await asyncio.sleep(0.005)
        task.cancel()
    await asyncio.to_thread(server.until_idle)
