"""The official openai client drives every field and endpoint beyond the common ones, against a real server."""

import asyncio
import json
import math
import subprocess
import sys

import numpy as np
import openai
import pytest

pytestmark = pytest.mark.model

PROMPT = "def add(a, b):\n    return"
GREEDY = {"model": "smol", "temperature": 0}


def complete(client, prompt=PROMPT, *, max_tokens=6, extra=None, **fields):
    return client.completions.create(**{**GREEDY, **fields}, prompt=prompt, max_tokens=max_tokens, extra_body=extra)


@pytest.fixture
def tokens(server):
    """text -> its token ids."""
    return lambda text: server.http.post("/tokenize", json={"prompt": text}).json()["tokens"]


# -- fields that shape what is sampled -------------------------------------------------------------------------------


def test_filters_that_leave_one_token_are_greedy(client):
    greedy = complete(client).choices[0].text
    for fields in ({"extra": {"top_k": 1}}, {"top_p": 1e-6}, {"extra": {"min_p": 1.0}}):
        assert complete(client, temperature=1.0, seed=3, **fields).choices[0].text == greedy
    wide = complete(client, temperature=2.0, seed=3).choices[0].text
    assert complete(client, temperature=2.0, seed=3, extra={"typical_p": 0.05}).choices[0].text != wide


def test_allowed_tokens_and_biases(client, tokens):
    yes, no = tokens(" yes")[-1], tokens(" no")[-1]
    choice = complete(client, "Is fire hot?", extra={"allowed_token_ids": [yes, no], "return_token_ids": True}).choices[
        0
    ]
    assert set(choice.token_ids) <= {yes, no}
    biased = complete(client, "Is fire hot?", logit_bias={str(no): 100}, extra={"return_token_ids": True}).choices[0]
    assert set(biased.token_ids) == {no}


def test_bad_words(client):
    assert " a + b" in complete(client).choices[0].text
    assert " a" not in complete(client, extra={"bad_words": ["a"]}).choices[0].text


def test_stops(client, tokens):
    free = complete(client, "1, 2, 3, 4,", max_tokens=20).choices[0].text
    stop = tokens(" 8")[-1]
    assert " 8" in free
    kept = complete(client, "1, 2, 3, 4,", max_tokens=20, stop=" 8", extra={"include_stop_str_in_output": True})
    assert kept.choices[0].text.endswith(" 8")
    by_id = complete(client, "1, 2, 3, 4,", max_tokens=20, extra={"stop_token_ids": [stop]}).choices[0]
    assert by_id.finish_reason == "stop"
    assert by_id.stop_reason == stop
    later = complete(client, "1, 2, 3, 4,", max_tokens=30, stop=",", extra={"min_tokens": 9})
    assert later.usage.completion_tokens > 9


def test_the_end_of_sequence(client):
    """A chat that says one word ends there, unless it is told not to, or not yet."""
    fields = {
        **GREEDY,
        "messages": [{"role": "user", "content": "What is the capital of France? Answer in one word."}],
        "max_tokens": 24,
    }
    ended = client.chat.completions.create(**fields)
    assert ended.choices[0].finish_reason == "stop"
    on = client.chat.completions.create(**fields, extra_body={"ignore_eos": True, "skip_special_tokens": False})
    assert on.usage.completion_tokens == 24
    assert "<|im_end|>" in on.choices[0].message.content
    late = client.chat.completions.create(**fields, extra_body={"min_tokens": 12})
    assert late.usage.completion_tokens >= 12


def test_penalties(client):
    prompt = "0, 0, 0, 0, 0, 0, 0, 0,"
    loop = complete(client, prompt, max_tokens=12).choices[0].text
    assert loop.count("0") >= 4
    for fields in ({"extra": {"repetition_penalty": 2.0}}, {"frequency_penalty": 2.0}, {"presence_penalty": 2.0}):
        assert complete(client, prompt, max_tokens=12, **fields).choices[0].text != loop


def test_seeds_and_several_choices(client):
    fields = {"temperature": 1.0, "seed": 11, "n": 3}
    first = [choice.text for choice in complete(client, **fields).choices]
    assert [choice.text for choice in complete(client, **fields).choices] == first
    assert len(set(first)) > 1


def test_best_of_chooses_among_what_n_would_give(client):
    fields = {"temperature": 1.5, "seed": 5, "logprobs": 0}
    every = complete(client, n=5, **fields).choices
    best = complete(client, n=2, best_of=5, **fields)

    def mean(choice):
        return sum(choice.logprobs.token_logprobs) / len(choice.logprobs.token_logprobs)

    expected = sorted(every, key=mean, reverse=True)[:2]
    assert [choice.text for choice in best.choices] == [choice.text for choice in expected]
    assert [choice.index for choice in best.choices] == [0, 1]
    assert best.usage.completion_tokens == 30


# -- prompts ----------------------------------------------------------------------------------------------------------


def test_prompts_of_every_shape_give_the_same(client, tokens):
    ids = tokens(PROMPT)
    text = complete(client).choices[0].text
    for prompt in ([PROMPT, "x"], ids, [ids, tokens("x")]):
        assert complete(client, prompt).choices[0].text == text


def test_echoed_prompts_with_log_probabilities(client):
    """The prompt's own log-probabilities, by echo and by prompt_logprobs, with and without output."""
    echoed = complete(client, max_tokens=0, echo=True, logprobs=2)
    block = echoed.choices[0].logprobs
    assert "".join(block.tokens) == PROMPT
    assert echoed.usage.completion_tokens == 0
    asked = complete(client, max_tokens=1, extra={"prompt_logprobs": 2}).choices[0].prompt_logprobs
    assert asked[0] is None
    pairs = zip(asked[1:], block.tokens[1:], strict=True)
    own = [next(each for each in one.values() if each["decoded_token"] == token) for one, token in pairs]
    np.testing.assert_allclose([one["logprob"] for one in own], block.token_logprobs[1:], atol=1e-5)
    streamed = list(complete(client, echo=True, logprobs=2, stream=True))
    spelled = [token for chunk in streamed for token in chunk.choices[0].logprobs.tokens]
    assert spelled[: len(block.tokens)] == block.tokens


def test_truncation(client, tokens):
    ids = tokens(PROMPT)
    choice = complete(client, extra={"truncate_prompt_tokens": 4, "return_token_ids": True}).choices[0]
    assert choice.prompt_token_ids == ids[-4:]
    extra = {"truncate_prompt_tokens": 4, "truncation_side": "right", "return_token_ids": True}
    assert complete(client, extra=extra).choices[0].prompt_token_ids == ids[:4]
    long = complete(client, "word " * 2000, extra={"truncate_prompt_tokens": -1}, max_tokens=8)
    assert long.usage.total_tokens == 1024
    with pytest.raises(openai.BadRequestError, match=r"\d{4} tokens; the context is 1024"):
        complete(client, "word " * 2000)


def test_token_ids_and_their_names(client):
    extra = {"return_token_ids": True, "return_tokens_as_token_ids": True}
    choice = complete(client, logprobs=1, extra=extra).choices[0]
    assert choice.logprobs.tokens == [f"token_id:{token}" for token in choice.token_ids]


def test_chat_fields(client, tokens):
    """Going on with a reply, no generation prompt, and variables of the template."""
    opened = [{"role": "user", "content": "Name a colour."}, {"role": "assistant", "content": "The colour is"}]
    extra = {"continue_final_message": True, "add_generation_prompt": False, "return_token_ids": True}
    answer = client.chat.completions.create(**GREEDY, messages=opened, max_tokens=4, extra_body=extra)
    assert answer.prompt_token_ids[-3:] == tokens("The colour is")[-3:]
    counted = []
    for extra in ({"add_generation_prompt": False}, {}, {"chat_template_kwargs": {"add_vision_id": True}}):
        answer = client.chat.completions.create(**GREEDY, messages=opened[:1], max_tokens=1, extra_body=extra)
        counted.append(answer.usage.prompt_tokens)
    assert counted[0] < counted[1] == counted[2]


def test_priorities_and_salts(client):
    messages = [{"role": "user", "content": "A salted prompt that fills some pages. " * 6}]
    cached = []
    for salt in ("a", "a", "b"):
        extra = {"cache_salt": salt, "priority": -1}
        answer = client.chat.completions.create(**GREEDY, messages=messages, max_tokens=1, extra_body=extra)
        cached.append(answer.usage.prompt_tokens_details.cached_tokens)
    assert cached[0] == cached[2] == 0
    assert cached[1] >= 32


def test_request_ids_and_hints(client):
    extra = {"request_id": "mine", "session_id": "s", "return_token_ids": False}
    answer = complete(client, user="me", extra=extra)
    assert answer.id == "cmpl-mine"


@pytest.mark.parametrize("field", ["max_tokenz", "nobody_knows"])
def test_unknown_fields_are_refused_by_name(client, field):
    with pytest.raises(openai.BadRequestError) as caught:
        complete(client, extra={field: 1})
    assert caught.value.param == field


# -- responses --------------------------------------------------------------------------------------------------------

QUESTION = "What is the capital of France? Answer in one word."


def test_a_response_and_what_follows_it(client):
    first = client.responses.create(**GREEDY, input=QUESTION, max_output_tokens=20)
    assert "Paris" in first.output_text
    assert first.status == "completed"
    second = client.responses.create(
        **GREEDY, input="Say that again.", previous_response_id=first.id, instructions="Be brief.", max_output_tokens=10
    )
    by_hand = client.responses.create(
        **GREEDY,
        input=[
            {"role": "user", "content": QUESTION},
            *(item.model_dump(exclude_none=True) for item in first.output),
            {"role": "user", "content": [{"type": "input_text", "text": "Say that again."}]},
        ],
        instructions="Be brief.",
        max_output_tokens=10,
    )
    assert second.output_text == by_hand.output_text
    assert second.usage.input_tokens == by_hand.usage.input_tokens
    assert client.responses.retrieve(second.id) == second
    [item] = client.responses.input_items.list(second.id)
    assert item.content[0].text == "Say that again."
    client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(first.id)
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(**GREEDY, input="x", previous_response_id=first.id)
    assert caught.value.param == "previous_response_id"


def test_a_streamed_response_is_the_whole_one(client):
    """The client's own state machine checks the order and the identities of events."""
    whole = client.responses.create(**GREEDY, input=QUESTION, max_output_tokens=20)
    with client.responses.stream(**GREEDY, input=QUESTION, max_output_tokens=20) as stream:
        events = list(stream)
        final = stream.get_final_response()
    assert final.output_text == whole.output_text
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == whole.output_text
    assert events[-1].type == "response.completed"
    assert final.usage.output_tokens == whole.usage.output_tokens
    assert client.responses.retrieve(final.id).output_text == whole.output_text


def test_log_probabilities_of_a_response(client):
    response = client.responses.create(
        **GREEDY, input=QUESTION, max_output_tokens=5, top_logprobs=3, include=["message.output_text.logprobs"]
    )
    logprobs = response.output[0].content[0].logprobs
    assert len(logprobs[0].top_logprobs) == 3
    assert logprobs[0].logprob == pytest.approx(max(other.logprob for other in logprobs[0].top_logprobs))
    assert sum(math.exp(other.logprob) for other in logprobs[0].top_logprobs) <= 1.001


def test_a_response_in_the_background_is_cancelled(client, server):
    response = client.responses.create(
        **GREEDY, input="Count.", background=True, max_output_tokens=900, extra_body={"ignore_eos": True}
    )
    assert response.status == "queued"
    while client.responses.retrieve(response.id).status == "queued":
        pass
    assert client.responses.cancel(response.id).status == "cancelled"
    server.until_idle()
    assert client.responses.retrieve(response.id).status == "cancelled"


def test_background_events_go_on_without_their_reader(client):
    fields = {**GREEDY, "input": QUESTION, "max_output_tokens": 20}
    seen = []
    with client.responses.create(**fields, background=True, stream=True) as stream:
        for event in stream:
            seen.append(event)
            if len(seen) == 3:
                break
    rest = list(client.responses.retrieve(seen[0].response.id, stream=True, starting_after=2))
    assert rest[0].sequence_number == 3
    assert rest[-1].type == "response.completed"
    assert rest[-1].response.output_text == client.responses.create(**fields).output_text


def test_input_tokens_are_those_of_the_usage(client):
    counted = client.responses.input_tokens.count(model="smol", input=QUESTION, instructions="Be brief.")
    response = client.responses.create(**GREEDY, input=QUESTION, instructions="Be brief.", max_output_tokens=1)
    assert counted.input_tokens == response.usage.input_tokens


# -- embeddings -------------------------------------------------------------------------------------------------------

TEXTS = ["def add(a, b): return a + b", "def plus(x, y): return x + y", "The cat sat on the mat all day long."]


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_embeddings_of_like_texts_are_near(client, pooling):
    answer = client.embeddings.create(model="smol", input=TEXTS, extra_body={"pooling": pooling})
    vectors = np.array([one.embedding for one in answer.data])
    assert vectors.shape == (3, 576)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    near = vectors @ vectors.T
    assert near[0, 1] > near[0, 2] + 0.1
    assert near[0, 1] > near[1, 2] + 0.1


def test_embeddings_in_both_encodings_and_of_token_ids(client, tokens):
    """The client asks for base64 unless told otherwise."""
    packed = client.embeddings.create(model="smol", input=TEXTS[0]).data[0].embedding
    floats = client.embeddings.create(model="smol", input=TEXTS[0], encoding_format="float").data[0].embedding
    ids = client.embeddings.create(model="smol", input=[tokens(TEXTS[0])]).data[0].embedding
    np.testing.assert_allclose(packed, floats, rtol=1e-6)
    np.testing.assert_allclose(ids, floats, rtol=1e-6)
    short = client.embeddings.create(model="smol", input=TEXTS[0], dimensions=8).data[0].embedding
    np.testing.assert_allclose(short, np.array(floats[:8]) / np.linalg.norm(floats[:8]), rtol=1e-4)
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(model="smol", input="x", dimensions=577)
    assert caught.value.param == "dimensions"


async def test_embeddings_beside_completions_change_neither(server):
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="dummy", max_retries=0) as client:

        async def text() -> str:
            answer = await client.completions.create(**GREEDY, prompt=PROMPT, max_tokens=24)
            return answer.choices[0].text

        async def vector() -> list[float]:
            return (await client.embeddings.create(model="smol", input=TEXTS[2] * 5)).data[0].embedding

        alone = [await text(), await vector()]
        together = await asyncio.gather(*(one() for one in (text, vector) * 4))
    assert together == alone * 4


# -- batch files ------------------------------------------------------------------------------------------------------


def test_a_batch_file_gives_what_the_server_gives(client, smollm2_path, tmp_path):
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    lines = [
        ("text", "/v1/completions", {**GREEDY, "prompt": PROMPT, "max_tokens": 6}),
        ("vector", "/v1/embeddings", {"model": "smol", "input": TEXTS[0]}),
        ("response", "/v1/responses", {**GREEDY, "input": QUESTION, "max_output_tokens": 20}),
        ("wrong", "/v1/chat/completions", {"model": "smol", "messages": []}),
    ]
    fields = [dict(zip(("custom_id", "url", "body"), line, strict=True), method="POST") for line in lines]
    source.write_text("".join(json.dumps(line) + "\n" for line in fields))
    command = [sys.executable, "-m", "befit.cli", "batch", source, target, smollm2_path]
    options = ["--served-name", "smol", "--ctx", "1024", "--kv-tokens", "4096"]
    run = subprocess.run([*map(str, command), *options], capture_output=True, text=True, check=False)
    assert run.returncode == 1, run.stderr
    assert "3 answered, 1 failed" in run.stderr
    found = {one["custom_id"]: one["response"] for one in map(json.loads, target.read_text().splitlines())}
    assert found["text"]["body"]["choices"][0]["text"] == complete(client).choices[0].text
    same = client.embeddings.create(model="smol", input=TEXTS[0]).data[0].embedding
    np.testing.assert_allclose(found["vector"]["body"]["data"][0]["embedding"], same, atol=1e-5)
    assert "Paris" in found["response"]["body"]["output"][0]["content"][0]["text"]
    assert found["wrong"]["status_code"] == 400
    again = subprocess.run([*map(str, command), *options], capture_output=True, text=True, check=False)
    assert again.returncode == 0
    assert "0 answered, 0 failed, 4 were there" in again.stderr
