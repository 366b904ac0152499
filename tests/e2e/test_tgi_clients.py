"""TGI's own client and the Hugging Face hub's inference client against a real server and a real model."""

import asyncio

import pytest
from huggingface_hub import AsyncInferenceClient, InferenceClient
from huggingface_hub.errors import ValidationError as HubValidationError
from text_generation import AsyncClient, Client
from text_generation.errors import ValidationError

from befit.watermark import z_score

pytestmark = pytest.mark.model

PROMPT = "def add(a, b):\n    return"


@pytest.fixture(scope="module")
def tgi(server):
    return Client(server.url, timeout=60)


@pytest.fixture(scope="module")
def hub(server):
    return InferenceClient(server.url, timeout=60)


def test_generate(tgi):
    answer = tgi.generate(PROMPT, max_new_tokens=8, decoder_input_details=True)
    assert "a + b" in answer.generated_text
    details = answer.details
    assert (details.finish_reason.value, details.generated_tokens) == ("length", 8)
    assert "".join(token.text for token in details.tokens if not token.special) == answer.generated_text
    assert "".join(token.text for token in details.prefill).endswith(PROMPT)
    assert all(token.logprob is None or token.logprob <= 0 for token in details.prefill)


def test_stream_is_the_same_text_a_token_an_event(tgi):
    whole = tgi.generate(PROMPT, max_new_tokens=8)
    events = list(tgi.generate_stream(PROMPT, max_new_tokens=8))
    assert len(events) == 8
    assert "".join(event.token.text for event in events) == whole.generated_text
    assert [event.generated_text for event in events] == [None] * 7 + [whole.generated_text]
    assert events[-1].details.generated_tokens == 8


def test_sampling_with_its_seed_is_repeated(tgi):
    answer = tgi.generate(PROMPT, do_sample=True, max_new_tokens=12)
    again = tgi.generate(PROMPT, do_sample=True, max_new_tokens=12, seed=answer.details.seed)
    assert again.generated_text == answer.generated_text


def test_best_of_and_top_tokens(tgi):
    answer = tgi.generate(PROMPT, do_sample=True, best_of=3, max_new_tokens=6, top_n_tokens=2)
    others = answer.details.best_of_sequences
    assert len(others) == 2

    def mean(tokens):
        return sum(token.logprob for token in tokens) / len(tokens)

    assert mean(answer.details.tokens) >= max(mean(one.tokens) for one in others)
    assert [len(top) for top in answer.details.top_tokens] == [2] * len(answer.details.tokens)


def test_stop_sequences_stay_in_the_text(tgi):
    answer = tgi.generate(PROMPT, max_new_tokens=40, stop_sequences=["b"])
    assert answer.generated_text.endswith("b")
    assert answer.details.finish_reason.value == "stop_sequence"


def test_a_grammar_is_kept(tgi):
    answer = tgi.generate(
        "Your favourite number: ", max_new_tokens=8, grammar={"type": "regex", "value": "[1-9][0-9]{2}"}
    )
    assert len(answer.generated_text) == 3
    assert answer.generated_text.isdigit()


def test_a_wrong_parameter_is_a_validation_error(tgi, hub):
    with pytest.raises(ValidationError, match="max_new_tokens"):
        tgi.generate(PROMPT, max_new_tokens=5000)
    with pytest.raises(ValidationError, match="inputs"):
        list(tgi.generate_stream("x " * 2000, max_new_tokens=5))
    with pytest.raises(HubValidationError, match="max_new_tokens"):
        hub.text_generation(PROMPT, max_new_tokens=5000)


def test_a_watermark_is_found_and_its_absence_too(tgi):
    def score(watermark):
        fields = {"do_sample": True, "seed": 3, "max_new_tokens": 120, "watermark": watermark}
        answer = tgi.generate("Once upon a time", **fields)
        return z_score([token.id for token in answer.details.tokens])

    assert score(True) > 4 > score(False)


def test_the_hubs_client(hub):
    answer = hub.text_generation(PROMPT, max_new_tokens=8, details=True, return_full_text=False)
    assert "a + b" in answer.generated_text
    assert answer.details.finish_reason == "length"
    assert hub.text_generation(PROMPT, max_new_tokens=8).startswith(PROMPT)  # as TGI has it, unless told otherwise
    pieces = list(hub.text_generation(PROMPT, max_new_tokens=8, stream=True))
    assert "".join(pieces) == answer.generated_text


def test_the_hubs_chat_with_any_model_name_of_its_own(hub):
    messages = [{"role": "user", "content": "What is the capital of France? Answer in one word."}]
    answer = hub.chat_completion(messages, max_tokens=10, temperature=0)
    assert "Paris" in answer.choices[0].message.content
    chunks = hub.chat_completion(messages, max_tokens=10, temperature=0, stream=True)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == answer.choices[0].message.content


def test_the_asynchronous_clients(server):
    async def run():
        client = AsyncClient(server.url, timeout=60)
        first, second = await asyncio.gather(
            client.generate(PROMPT, max_new_tokens=8), client.generate(PROMPT, max_new_tokens=8)
        )
        assert first.generated_text == second.generated_text
        streamed = [event.token.text async for event in client.generate_stream(PROMPT, max_new_tokens=8)]
        assert "".join(streamed) == first.generated_text
        async with AsyncInferenceClient(server.url) as hub:
            assert await hub.text_generation(PROMPT, max_new_tokens=8, return_full_text=False) == first.generated_text

    asyncio.run(run())
