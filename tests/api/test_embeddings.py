"""`/v1/embeddings` over a fake engine, whose vector is [number of tokens, last token, 0, 3]."""

import base64

import numpy as np
import pytest


async def embed(client, value, **body):
    return await client.post("/v1/embeddings", json={"model": "fake", "input": value, **body})


async def test_answer_has_openais_shape(client, engine):
    response = await embed(client, "ab", user="me")
    body = response.json()
    assert body["object"] == "list"
    assert body["model"] == "fake"
    assert body["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
    [one] = body["data"]
    assert (one["object"], one["index"]) == ("embedding", 0)
    expected = np.array([3, ord("b"), 0, 3]) / np.linalg.norm([3, ord("b"), 0, 3])
    np.testing.assert_allclose(one["embedding"], expected, rtol=1e-6)
    _, params, options = engine.seen[0]
    assert params.max_tokens == 0
    assert options == {"priority": 0, "cache_salt": "", "pooling": "mean"}


@pytest.mark.parametrize(
    ("value", "ids"),
    [
        ("ab", [[256, 97, 98]]),
        (["a", "b"], [[256, 97], [256, 98]]),
        ([97, 98], [[97, 98]]),
        ([[97], [98]], [[97], [98]]),
    ],
)
async def test_inputs_in_every_shape(client, engine, value, ids):
    body = (await embed(client, value)).json()
    assert [one for one, _, _ in engine.seen] == ids
    assert [one["index"] for one in body["data"]] == list(range(len(ids)))


async def test_base64_is_little_endian_float32(client):
    floats = (await embed(client, ["a", "bc"])).json()["data"]
    packed = (await embed(client, ["a", "bc"], encoding_format="base64")).json()["data"]
    for one, other in zip(floats, packed, strict=True):
        unpacked = np.frombuffer(base64.b64decode(other["embedding"]), "<f4")
        np.testing.assert_array_equal(unpacked, np.array(one["embedding"], np.float32))


async def test_dimensions_are_the_first_components_again_of_length_1(client):
    [one] = (await embed(client, "ab", dimensions=2)).json()["data"]
    np.testing.assert_allclose(one["embedding"], np.array([3, 98]) / np.linalg.norm([3, 98]), rtol=1e-6)
    [one] = (await embed(client, "ab", dimensions=2, normalize=False)).json()["data"]
    assert one["embedding"] == [3, 98]


@pytest.mark.parametrize(("said", "kind"), [(1, "mean"), (3, "last"), (None, "mean"), (2, "mean")])
async def test_pooling_is_what_the_model_file_says_unless_asked_for(client, engine, said, kind):
    engine.model.metadata.update({"general.architecture": "fake", "fake.pooling_type": said})
    await embed(client, "ab")
    await embed(client, "ab", pooling="last")
    assert [options["pooling"] for _, _, options in engine.seen] == [kind, "last"]


async def test_other_fields_reach_the_engine(client, engine):
    await embed(client, "abc", add_special_tokens=False, priority=3, cache_salt="s", pooling="mean")
    await embed(client, "a" * 500, truncate_prompt_tokens=-1)
    await embed(client, "abc", truncate_prompt_tokens=2, truncation_side="right")
    assert engine.seen[0][0] == [97, 98, 99]
    assert engine.seen[0][2] == {"priority": 3, "cache_salt": "s", "pooling": "mean"}
    assert len(engine.seen[1][0]) == 200, "the whole context: there is no output"
    assert engine.seen[2][0] == [256, 97]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("input", None),
        ("input", []),
        ("input", [999]),
        ("input", ["a"] * 2049),
        ("input", "a" * 200),
        ("dimensions", 0),
        ("dimensions", 5),
        ("encoding_format", "float16"),
        ("pooling", "cls"),
        ("truncate_prompt_tokens", 0),
        ("temperature", 1),
        ("stream", True),
    ],
)
async def test_wrong_values_are_refused_by_name(client, engine, field, value):
    response = await client.post("/v1/embeddings", json={"input": "ab", field: value})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == field
    assert engine.seen == []
