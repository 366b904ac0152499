"""`/tokenize` and `/detokenize`, in vLLM's shapes and in llama.cpp's."""

import pytest


async def test_tokenize(client):
    answer = (await client.post("/tokenize", json={"model": "fake", "prompt": "ab"})).json()
    assert answer == {"count": 3, "max_model_len": 200, "tokens": [256, 97, 98], "token_strs": None}
    fields = {"prompt": "ab", "add_special_tokens": False, "return_token_strs": True}
    answer = (await client.post("/tokenize", json=fields)).json()
    assert (answer["tokens"], answer["token_strs"]) == ([97, 98], ["a", "b"])


async def test_a_chat_is_tokenised_as_it_would_be_for_an_answer(client, engine, template):
    fields = {
        "messages": [{"role": "user", "content": "hi"}],
        "add_generation_prompt": False,
        "chat_template_kwargs": {"enable_thinking": False},
    }
    tokens = (await client.post("/tokenize", json=fields)).json()["tokens"]
    await client.post("/v1/chat/completions", json=fields)
    assert tokens == engine.seen[0][0]
    assert template.calls[0] == template.calls[1]


async def test_detokenize(client):
    answer = (await client.post("/detokenize", json={"tokens": [256, 97, 98]})).json()
    assert answer["prompt"] == "<|begin|>ab"
    answer = (await client.post("/detokenize", json={"tokens": [256, 97, 98], "skip_special_tokens": True})).json()
    assert answer["prompt"] == "ab"
    assert (await client.post("/detokenize", json={"tokens": []})).json()["prompt"] == ""


async def test_llama_cpps_fields(client):
    answer = (await client.post("/tokenize", json={"content": "é"})).json()
    assert answer["tokens"] == list("é".encode())
    answer = (await client.post("/tokenize", json={"content": "aé", "add_special": True, "with_pieces": True})).json()
    assert answer["tokens"][:2] == [{"id": 256, "piece": "<|begin|>"}, {"id": 97, "piece": "a"}]
    assert answer["tokens"][2] == {"id": 0xC3, "piece": [0xC3]}
    assert (await client.post("/detokenize", json={"tokens": [97]})).json()["content"] == "a"


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, None),
        ("/tokenize", {"prompt": "a", "messages": []}, None),
        ("/tokenize", {"prompt": 5}, "prompt"),
        ("/tokenize", {"prompt": "a", "model": "gpt"}, "model"),
        ("/tokenize", {"prompt": "a", "texts": 1}, "texts"),
        ("/tokenize", {"messages": [{"role": "x"}]}, "messages"),
        ("/detokenize", {}, "tokens"),
        ("/detokenize", {"tokens": [258]}, "tokens"),
        ("/detokenize", {"tokens": [-1]}, "tokens"),
        ("/detokenize", {"tokens": "ab"}, "tokens"),
    ],
)
async def test_what_is_wrong_is_named(client, path, body, param):
    response = await client.post(path, json=body)
    assert response.status_code == (404 if param == "model" else 400)
    assert response.json()["error"]["param"] == param
