import json

import httpx
import pytest

from befit.api.app import create_app
from befit.engine.outputs import Delta, TokenLogprob


def events(text: str) -> list:
    """The payloads of a whole event stream; the last must be [DONE]."""
    assert text.endswith("\n\n")
    payloads = [block.removeprefix("data: ") for block in text.strip().split("\n\n")]
    assert payloads[-1] == "[DONE]"
    return [json.loads(payload) for payload in payloads[:-1]]


async def complete(client, **body):
    return await client.post("/v1/completions", json={"model": "fake", "prompt": "ab", **body})


async def test_answer_has_openais_shape(client):
    response = await complete(client)
    body = response.json()
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert body.pop("id").startswith("cmpl-")
    assert body.pop("created") > 1_700_000_000
    assert body.pop("system_fingerprint").startswith("fp_")
    assert body == {
        "object": "text_completion",
        "model": "fake",
        "choices": [
            {"index": 0, "text": "Hello wörld", "logprobs": None, "finish_reason": "stop", "stop_reason": None}
        ],
        "usage": {
            "prompt_tokens": 3,
            "completion_tokens": 12,
            "total_tokens": 15,
            "prompt_tokens_details": {"cached_tokens": 3},
        },
    }


async def test_max_tokens_is_16_unless_given_and_clamped_to_the_context(client, engine):
    await complete(client)
    await complete(client, max_tokens=100_000)
    assert [params.max_tokens for _, params, _ in engine.seen] == [16, 197]


@pytest.mark.parametrize(
    ("prompt", "ids"),
    [
        ("ab", [[256, 97, 98]]),
        (["a", "b"], [[256, 97], [256, 98]]),
        ([97, 98], [[97, 98]]),
        ([[97], [98, 99]], [[97], [98, 99]]),
        (["a", [98]], [[256, 97], [98]]),
    ],
)
async def test_prompts_in_every_shape(client, engine, prompt, ids):
    body = (await complete(client, prompt=prompt)).json()
    assert [one for one, _, _ in engine.seen] == ids
    assert [choice["index"] for choice in body["choices"]] == list(range(len(ids)))
    assert body["usage"]["prompt_tokens"] == sum(map(len, ids))


@pytest.mark.parametrize("prompt", [None, "", [], [[]], {}, 5, [1.5], [["a"]], [-1], [258], [True], [[97], None]])
async def test_other_prompts_are_refused_by_name(client, prompt):
    response = await complete(client, prompt=prompt, add_special_tokens=False)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "prompt"


async def test_choices_are_numbered_prompt_by_prompt(client):
    body = (await complete(client, prompt=["a", "b"], n=2)).json()
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2, 3]
    response = await complete(client, prompt=["a", "b"], n=2, stream=True)
    texts = dict.fromkeys(range(4), "")
    for chunk in events(response.text):
        [choice] = chunk["choices"]
        texts[choice["index"]] += choice["text"]
    assert set(texts.values()) == {"Hello wörld"}


async def test_stream(client):
    response = await complete(client, stream=True)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-accel-buffering"] == "no"
    chunks = events(response.text)
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert [chunk["choices"][0]["text"] for chunk in chunks] == ["Hel", "lo ", "wörld"]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, "stop"]
    assert all("usage" not in chunk and chunk["object"] == "text_completion" for chunk in chunks)


async def test_stream_is_plain_ascii(client, engine):
    engine.pieces = ["line\u2028sep", "\x85 é \U0001f600", '"\\\n\0']
    response = await complete(client, stream=True, max_tokens=100)
    assert response.content.isascii()
    assert "".join(chunk["choices"][0]["text"] for chunk in events(response.text)) == "".join(engine.pieces)


async def test_stream_usage(client):
    chunks = events((await complete(client, stream=True, stream_options={"include_usage": True})).text)
    assert all(chunk["usage"] is None for chunk in chunks[:-1])
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == 12
    assert chunks[-1]["usage"]["prompt_tokens_details"] == {"cached_tokens": 3}
    options = {"include_usage": True, "continuous_usage_stats": True}
    chunks = events((await complete(client, stream=True, stream_options=options)).text)
    assert [chunk["usage"]["completion_tokens"] for chunk in chunks] == [3, 6, 12, 12]


async def test_empty_deltas_make_no_events(client, engine):
    engine.pieces = ["a", "", "b"]
    assert len(events((await complete(client, stream=True)).text)) == 2


async def test_logprobs_are_parallel_lists(client, engine):
    engine.pieces = ["aé"]
    block = (await complete(client, logprobs=2)).json()["choices"][0]["logprobs"]
    assert block["tokens"] == ["a", "bytes:\\xc3", "bytes:\\xa9"]
    assert block["token_logprobs"] == [-0.5, -0.5, -0.5]
    assert block["top_logprobs"][0] == {"a": -0.5, "b": -1.5}
    assert block["text_offset"] == [0, 1, 2]


async def test_logprobs_name_the_chosen_token_even_below_the_top(client, engine):
    block = (await complete(client, logprobs=0)).json()["choices"][0]["logprobs"]
    assert block["tokens"][0] == "H"
    assert block["top_logprobs"][0] is None
    block = (await complete(client, logprobs=1, return_tokens_as_token_ids=True)).json()["choices"][0]["logprobs"]
    assert block["tokens"][0] == "token_id:72"


async def test_streamed_logprobs_join_to_the_whole(client):
    whole = (await complete(client, logprobs=1, echo=True)).json()["choices"][0]
    streamed = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
    text = ""
    for chunk in events((await complete(client, logprobs=1, echo=True, stream=True)).text):
        text += chunk["choices"][0]["text"]
        for name, values in chunk["choices"][0]["logprobs"].items():
            streamed[name] += values
    assert text == whole["text"]
    assert streamed == whole["logprobs"]


async def test_echo_returns_the_prompt_with_its_logprobs(client):
    choice = (await complete(client, echo=True, logprobs=1, max_tokens=2)).json()["choices"][0]
    assert choice["text"] == "abHe"
    assert choice["logprobs"]["tokens"] == ["<|begin|>", "a", "b", "H", "e"]
    assert choice["logprobs"]["token_logprobs"] == [None, -0.5, -0.5, -0.5, -0.5]
    assert choice["logprobs"]["text_offset"] == [0, 0, 1, 2, 3]
    choice = (await complete(client, prompt=[97, 98], echo=True, max_tokens=2)).json()["choices"][0]
    assert choice["text"] == "abHe"


async def test_prompt_logprobs_and_token_ids(client):
    choice = (await complete(client, prompt_logprobs=1, return_token_ids=True, max_tokens=1)).json()["choices"][0]
    assert choice["prompt_logprobs"] == [
        None,
        {"97": {"logprob": -0.5, "rank": 1, "decoded_token": "a"}},
        {"98": {"logprob": -0.5, "rank": 1, "decoded_token": "b"}},
    ]
    assert choice["prompt_token_ids"] == [256, 97, 98]
    assert choice["token_ids"] == [72]
    chunks = events((await complete(client, return_token_ids=True, stream=True)).text)
    assert chunks[0]["choices"][0]["prompt_token_ids"] == [256, 97, 98]
    streamed = [token for chunk in chunks for token in chunk["choices"][0]["token_ids"]]
    assert streamed == list("Hello wörld".encode())


async def test_every_sampling_field_reaches_the_engine(client, engine):
    fields = {
        "temperature": 0.5,
        "top_k": 3,
        "top_p": 0.9,
        "min_p": 0.1,
        "typical_p": 0.8,
        "repetition_penalty": 1.1,
        "frequency_penalty": 0.2,
        "presence_penalty": -0.2,
        "seed": 7,
        "logit_bias": {"5": 2.0},
        "bad_words": ["no"],
        "allowed_token_ids": [65, 66],
        "stop": "x",
        "include_stop_str_in_output": True,
        "stop_token_ids": [9],
        "ignore_eos": True,
        "min_tokens": 2,
        "max_tokens": 30,
        "skip_special_tokens": False,
        "n": 2,
        "logprobs": 3,
        "prompt_logprobs": 1,
    }
    await complete(client, priority=4, cache_salt="s", **fields)
    _, params, options = engine.seen[0]
    expected = {**fields, "logit_bias": {5: 2.0}, "stop": ["x"]}
    assert {name: getattr(params, name) for name in fields} == expected
    assert options == {"priority": 4, "cache_salt": "s"}


async def test_best_of_returns_the_likeliest(client, engine, monkeypatch):
    async def generate(prompt_ids, params, **options):
        engine.seen.append((prompt_ids, params, options))
        for index, (text, value) in enumerate([("aa", -3.0), ("b", -1.0), ("cc", -1.2)]):
            ids = list(text.encode())
            logprobs = [TokenLogprob(token, value, 1) for token in ids]
            yield Delta(index, text, ids, logprobs=logprobs, finish_reason="stop")

    monkeypatch.setattr(engine, "generate", generate)
    body = (await complete(client, n=2, best_of=3)).json()
    assert [(choice["index"], choice["text"], choice["logprobs"]) for choice in body["choices"]] == [
        (0, "b", None),
        (1, "cc", None),
    ]
    assert body["usage"]["completion_tokens"] == 5, "all that was generated counts"
    assert [(params.n, params.logprobs) for _, params, _ in engine.seen] == [(3, 0)]
    assert (await complete(client, n=2, best_of=3, stream=True)).json()["error"]["param"] == "best_of"


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        ({"truncate_prompt_tokens": 3}, "fgh"),
        ({"truncate_prompt_tokens": 3, "truncation_side": "right"}, "<|begin|>ab"),
        ({"truncate_prompt_tokens": 100}, "<|begin|>abcdefgh"),
        ({"truncate_prompt_tokens": -1}, "<|begin|>abcdefgh"),
    ],
)
async def test_a_prompt_is_cut_only_where_it_is_asked_for(client, engine, fields, kept):
    fields = {"echo": True, "skip_special_tokens": False, "max_tokens": 1, **fields}
    choice = (await complete(client, prompt="abcdefgh", **fields)).json()["choices"][0]
    ids = engine.seen[0][0]
    assert engine.model.tokenizer.decode(ids, skip_special=False) == kept
    assert choice["text"] == ("abcdefgh" if len(ids) == 9 else kept) + "H"


async def test_as_many_tokens_as_fit_leave_room_for_the_output(client, engine):
    await complete(client, prompt="a" * 500, truncate_prompt_tokens=-1, max_tokens=20)
    await complete(client, prompt="a" * 500, truncate_prompt_tokens=-1)
    body = {"messages": [{"role": "user", "content": "a" * 500}], "truncate_prompt_tokens": -1}
    await client.post("/v1/chat/completions", json=body)
    assert [len(ids) for ids, _, _ in engine.seen] == [180, 184, 199]
    assert (await complete(client, prompt="a" * 500, truncate_prompt_tokens=-1, max_tokens=200)).status_code == 400


async def test_sampling_that_a_request_leaves_open_is_the_models(engine, template):
    engine.model.metadata = {"general.sampling.temp": 0.6, "general.sampling.top_k": 20, "general.sampling.top_p": 0.8}
    app = create_app(engine, served_name="fake", chat_template=template)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        messages = [{"role": "user", "content": "x"}]
        await complete(client)
        await complete(client, temperature=0, top_k=-1)
        await client.post("/v1/chat/completions", json={"model": "fake", "messages": messages, "top_p": 1})
    found = [(params.temperature, params.top_k, params.top_p) for _, params, _ in engine.seen]
    assert found == [(0.6, 20, 0.8), (0, 0, 0.8), (0.6, 20, 1)]
