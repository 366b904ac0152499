"""llama.cpp's endpoints (`/infill`, `/completion`, `/props`, `/apply-template`), and `suffix` in `/v1/completions`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from befit.api.app import create_app
from befit.api.chat import ChatTemplate
from befit.api.llamacpp.fields import HINTS, UNSUPPORTED
from befit.api.llamacpp.limits import Limits, unsure
from befit.api.llamacpp.types import InfillRequest
from befit.engine.outputs import TokenLogprob
from support.tokenizers import QWEN, byte_level

from .conftest import CTX, FakeEngine

TOKENS = byte_level("<|endoftext|>", *QWEN)
CHATML = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<a>{% endif %}"
HOLE = {"input_prefix": "def f(", "input_suffix": "):\n    pass\n", "prompt": "x"}

# What llama.vscode sends for a completion and to warm the cache (createRequestPayload in its src/llama-server.ts).
VSCODE = {
    "input_prefix": "import os\n\ndef f():\n",
    "input_suffix": "\n    return x\n",
    "input_extra": [{"text": "x = 1\n", "time": 1700000000000, "filename": "a.py"}],
    "prompt": "    x = ",
    "n_predict": 128,
    "top_k": 40,
    "top_p": 0.99,
    "stream": False,
    "samplers": ["top_k", "top_p", "infill"],
    "cache_prompt": True,
    "n_indent": 4,
    "t_max_prompt_ms": 500,
    "t_max_predict_ms": 2500,
}
VSCODE_WARM = {
    "input_prefix": "",
    "input_suffix": "",
    "input_extra": [{"text": "x = 1\n", "filename": "a.py"}],
    "prompt": "",
    "n_predict": 0,
    "samplers": [],
    "cache_prompt": True,
    "t_max_prompt_ms": 500,
    "t_max_predict_ms": 1,
}
# llama.vim (autoload/llama.vim): only these parts of the answer are asked for.
VIM = {
    **{key: VSCODE[key] for key in ("input_prefix", "input_suffix", "input_extra", "prompt", "n_predict", "n_indent")},
    "stop": ["\n\n\n"],
    "top_k": 40,
    "top_p": 0.90,
    "stream": False,
    "samplers": ["top_k", "top_p", "infill"],
    "cache_prompt": True,
    "t_max_prompt_ms": 500,
    "t_max_predict_ms": 1000,
    "response_fields": [
        "content",
        "timings/prompt_n",
        "timings/prompt_ms",
        "timings/prompt_per_token_ms",
        "timings/prompt_per_second",
        "timings/predicted_n",
        "timings/predicted_ms",
        "timings/predicted_per_token_ms",
        "timings/predicted_per_second",
        "truncated",
        "tokens_cached",
    ],
}


@pytest.fixture
def coder() -> FakeEngine:
    engine = FakeEngine()
    engine.model.tokenizer = TOKENS
    engine.model.metadata = {"tokenizer.chat_template": CHATML, "tokenizer.ggml.eos_token_id": 256}
    return engine


@pytest.fixture
async def code(coder: FakeEngine) -> AsyncIterator[httpx.AsyncClient]:
    template = ChatTemplate.from_metadata(coder.model.metadata, TOKENS)
    app = create_app(coder, served_name="fake", chat_template=template)  # type: ignore[arg-type]
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://befit") as client:
        yield client


async def infill(client: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    response = await client.post("/infill", json={**HOLE, **fields})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def prompt_of(engine: FakeEngine) -> str:
    return TOKENS.decode(engine.seen[-1][0], skip_special=False)


async def test_the_answer_has_llama_cpps_shape(code: httpx.AsyncClient, coder: FakeEngine) -> None:
    body = await infill(code, temperature=0, seed=3)
    assert prompt_of(coder) == "<|fim_prefix|>def f(x<|fim_suffix|>):\n    pass\n<|fim_middle|>"
    settings = body.pop("generation_settings")
    assert (settings["temperature"], settings["top_k"], settings["seed"], settings["n_predict"]) == (0, 40, 3, -1)
    timings = body.pop("timings")
    assert (timings["cache_n"], timings["prompt_n"], timings["predicted_n"]) == (3, 19, 12)
    assert body == {
        "index": 0,
        "content": "Hello wörld",
        "tokens": [],
        "id_slot": 0,
        "stop": True,
        "model": "fake",
        "tokens_predicted": 12,
        "tokens_evaluated": 22,
        "prompt": prompt_of(coder),
        "has_new_line": False,
        "truncated": False,
        "tokens_trimmed": {"prefix": 0, "suffix": 0, "extra": 0},
        "stop_type": "eos",
        "stopping_word": "",
        "tokens_cached": 3,
    }


async def test_the_output_ends_at_markers(code: httpx.AsyncClient, coder: FakeEngine) -> None:
    await infill(code)
    assert set(coder.seen[-1][1].stop_token_ids) == {TOKENS.control_tokens[marker] for marker in QWEN}


async def test_files_come_first_and_have_names(code: httpx.AsyncClient, coder: FakeEngine) -> None:
    extra = [{"filename": "a.py", "text": "x=1"}, {"text": "y<|fim_middle|>"}]
    await infill(code, input_extra=extra, input_filename="b.py", input_repository="r")
    assert prompt_of(coder).startswith(
        "<|repo_name|>r\n<|file_sep|>a.py\nx=1\n<|file_sep|>current\ny<|fim_middle|>\n<|file_sep|>b.py\n<|fim_prefix|>"
    )
    assert coder.seen[-1][0].count(TOKENS.control_tokens["<|fim_middle|>"]) == 1


async def test_what_does_not_fit_is_trimmed_and_reported(code: httpx.AsyncClient, coder: FakeEngine) -> None:
    body = await infill(code, input_prefix="p" * 300, prompt="", input_suffix="s" * 300, n_predict=20)
    assert body["truncated"] is True
    assert body["tokens_evaluated"] <= CTX - 20
    kept = prompt_of(coder).removeprefix("<|fim_prefix|>").removesuffix("<|fim_middle|>").split("<|fim_suffix|>")
    trimmed = body["tokens_trimmed"]
    assert kept == ["p" * (300 - trimmed["prefix"]), "s" * (300 - trimmed["suffix"])]
    assert trimmed["extra"] == 0
    body = await infill(code, input_extra=[{"text": "t" * 300}])
    assert body["tokens_trimmed"] == {"prefix": 0, "suffix": 0, "extra": 300 + len("current\n\n") + 1}


@pytest.mark.parametrize("body", [VSCODE, VIM], ids=["llama.vscode", "llama.vim"])
async def test_editor_extensions_of_llama_cpp(code: httpx.AsyncClient, coder: FakeEngine, body: dict[str, Any]) -> None:
    response = await code.post("/infill", json=body)
    assert response.status_code == 200
    assert response.headers["x-befit-ignored-fields"] == "t_max_prompt_ms"
    answer = response.json()
    assert answer["content"] == "Hello wörld"
    if body is VIM:
        assert set(answer) == set(VIM["response_fields"])
    params = coder.seen[-1][1]
    assert (params.temperature, params.top_k, params.min_p, params.logprobs) == (0, 40, 0, 20)
    assert params.max_tokens == 200 - len(coder.seen[-1][0])


async def test_warming_computes_the_prompt_and_answers_nothing(code: httpx.AsyncClient, coder: FakeEngine) -> None:
    answer = (await code.post("/infill", json=VSCODE_WARM)).json()
    assert (answer["content"], answer["tokens_predicted"], answer["stop_type"]) == ("", 0, "limit")
    assert coder.seen[-1][1].max_tokens == 1, "a request for no tokens would compute nothing"
    assert coder.open == 0


async def test_a_stream_of_pieces_ends_with_everything_else(code: httpx.AsyncClient) -> None:
    response = await code.post("/infill", json={**HOLE, "stream": True, "timings_per_token": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    events = [json.loads(block.removeprefix("data: ")) for block in response.text.strip().split("\n\n")]
    assert [event["content"] for event in events] == ["Hel", "lo ", "wörld", ""]
    assert [event["stop"] for event in events] == [False, False, False, True]
    assert [event["tokens_predicted"] for event in events] == [3, 6, 12, 12]
    assert events[0]["tokens"] == list(b"Hel")
    assert events[0]["timings"]["predicted_n"] == 3
    assert events[-1]["stop_type"] == "eos"


@pytest.mark.parametrize(("fields", "expected"), [({"n_predict": 4}, "limit"), ({"max_tokens": 4}, "limit")])
async def test_why_it_ended(code: httpx.AsyncClient, fields: dict[str, Any], expected: str) -> None:
    body = await infill(code, return_tokens=True, **fields)
    assert (body["content"], body["tokens"], body["stop_type"]) == ("Hell", list(b"Hell"), expected)


async def test_lines_with_too_little_indentation_end_it(code: httpx.AsyncClient, coder: FakeEngine) -> None:
    coder.pieces = ["a\n   ", " b\n", "  c\n", "d"]
    assert (await infill(code, n_indent=2))["content"] == "a\n    b\n  c\n"
    body = await infill(code, n_indent=4)
    assert (body["content"], body["stop_type"]) == ("a\n    b\n  ", "limit")
    assert coder.open == 0


async def test_a_cache_can_be_left_alone(code: httpx.AsyncClient, coder: FakeEngine) -> None:
    await infill(code)
    await infill(code, cache_prompt=False)
    await infill(code, cache_prompt=False)
    salts = [options["cache_salt"] for _, _, options in coder.seen]
    assert salts[0] == ""
    assert len(set(salts)) == 3


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"mirostat": 2}, "mirostat"),
        ({"grammar": "root ::= x"}, "grammar"),
        ({"lora": [{"id": 0, "scale": 0.5}]}, "lora"),
        ({"n_probs": 3}, "n_probs"),
        ({"input_sufix": "x"}, "input_sufix"),
        ({"repeat_penalty": 1.1, "repeat_last_n": 64}, "repeat_last_n"),
        ({"n_predict": -3}, "n_predict"),
        ({"top_p": 0}, "top_p"),
        ({"input_extra": "x"}, "input_extra"),
        ({"input_extra": [{"filename": "a"}]}, "input_extra"),
        ({"model": "gpt"}, "model"),
    ],
)
async def test_what_cannot_be_honoured_is_named(code: httpx.AsyncClient, fields: dict[str, Any], param: str) -> None:
    response = await code.post("/infill", json={**HOLE, **fields})
    assert response.status_code in (400, 404)
    assert response.json()["error"]["param"] == param


async def test_samplers_that_are_off_pass(code: httpx.AsyncClient) -> None:
    off = {"mirostat": 0, "dry_multiplier": 0.0, "dry_base": 1.75, "xtc_probability": 0, "lora": [], "samplers": "kpt"}
    response = await code.post("/infill", json={**HOLE, **off})
    assert response.status_code == 200
    assert response.headers["x-befit-ignored-fields"] == "dry_base"
    assert response.json()["generation_settings"]["samplers"] == ["top_k", "top_p", "temperature"]


@pytest.mark.parametrize(("path", "field"), [("/infill", "input_prefix"), ("/v1/completions", "suffix")])
async def test_a_model_without_fim_tokens_says_so(client: httpx.AsyncClient, path: str, field: str) -> None:
    response = await client.post(path, json={"prompt": "x", field: "y"})
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["code"]) == (400, field, "unsupported_field")
    assert "cannot" in error["message"]


# Completions


async def test_completions_take_a_suffix(code: httpx.AsyncClient, coder: FakeEngine) -> None:
    body = {"prompt": ["a", [98]], "suffix": "<|fim_middle|>", "max_tokens": 50}
    answer = (await code.post("/v1/completions", json=body)).json()
    assert [choice["text"] for choice in answer["choices"]] == ["Hello wörld"] * 2
    assert answer["usage"]["prompt_tokens"] == 2 * (1 + 14 + 3)
    for ids, params, _ in coder.seen:
        assert [token for token in ids if token > 255] == [257, 258, 259]
        assert set(params.stop_token_ids) == set(range(257, 263))


async def test_an_empty_suffix_asks_for_nothing(code: httpx.AsyncClient, coder: FakeEngine) -> None:
    await code.post("/v1/completions", json={"prompt": "ab", "suffix": ""})
    assert coder.seen[-1][0] == [97, 98]


async def test_a_prompt_with_a_suffix_is_never_cut(code: httpx.AsyncClient) -> None:
    response = await code.post("/v1/completions", json={"prompt": "a" * 150, "suffix": "b" * 150})
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (400, "context_length_exceeded", "prompt")
    assert "303" in error["message"]
    response = await code.post("/v1/completions", json={"prompt": "a", "suffix": "b", "echo": True})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "echo")


@pytest.mark.parametrize(("asked", "most"), [(-1, CTX - 20), (90, 90)])
async def test_unless_that_is_asked_for(code: httpx.AsyncClient, coder: FakeEngine, asked: int, most: int) -> None:
    body = {"prompt": "a" * 150, "suffix": "b" * 150, "max_tokens": 20, "truncate_prompt_tokens": asked}
    assert (await code.post("/v1/completions", json=body)).status_code == 200
    assert most - 10 < len(coder.seen[-1][0]) <= most
    body["truncation_side"] = "left"
    assert (await code.post("/v1/completions", json=body)).status_code == 400


async def test_raw_completion(code: httpx.AsyncClient, coder: FakeEngine) -> None:
    answer = (await code.post("/completion", json={"prompt": "a<|fim_middle|>", "n_predict": 5})).json()
    assert (answer["content"], answer["stop_type"]) == ("Hello", "limit")
    assert coder.seen[-1][0] == [97, 259]
    assert coder.seen[-1][1].temperature == 0.8
    await code.post("/completion", json={"prompt": [5, 6]})
    assert coder.seen[-1][0] == [5, 6]
    assert (await code.post("/completion", json={"prompt": "a" * 300})).status_code == 400


# Properties


async def test_properties_say_which_template_is_used_and_why(code: httpx.AsyncClient) -> None:
    props = (await code.get("/props")).json()
    assert props["chat_template"] == CHATML
    assert props["chat_template_source"] == "the model's own (tokenizer.chat_template)"
    assert props["chat_template_caps"] == {"supports_system_role": True, "supports_tools": False}
    assert props["default_generation_settings"]["n_ctx"] == CTX
    assert props["default_generation_settings"]["params"]["temperature"] == 0.8
    assert (props["total_slots"], props["model_path"], props["model_alias"]) == (4, "fake.gguf", "fake")
    assert props["modalities"] == {"vision": False, "video": False, "audio": False}
    assert props["infill"] == {"family": "Qwen2.5-Coder"}
    assert props["eos_token"] == "<|endoftext|>"


async def test_a_conversation_as_its_prompt(code: httpx.AsyncClient) -> None:
    body = {"messages": [{"role": "user", "content": "hi"}]}
    assert (await code.post("/apply-template", json=body)).json() == {"prompt": "<user>hi<a>"}
    assert (await code.post("/apply-template", json={"messages": []})).status_code == 400


# Ends that only this protocol has


def test_a_line_is_finished_before_time_is_up() -> None:
    now = [0.0]
    limits = Limits(max_seconds=1.0, clock=lambda: now[0])
    assert limits.push("a\nb") == ("a\nb", False)
    now[0] = 2.0
    assert limits.push("c") == ("c", False)
    assert limits.push("d\ne") == ("d\n", True)


def listed(*tokens: tuple[int, float]) -> TokenLogprob:
    from math import log

    top = [(token, log(p)) for token, p in tokens]
    return TokenLogprob(*top[0], 1, top)


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ([(97, 0.9), (98, 0.05)], False),
        ([(97, 0.19), (98, 0.18)], True),
        ([(97, 0.6), (256, 0.3)], True),
        ([(97, 0.9), (256, 0.01)], False),
    ],
)
def test_being_unsure(tokens: list[tuple[int, float]], expected: bool) -> None:
    assert unsure(listed(*tokens), TOKENS) is expected


def test_every_field_is_documented() -> None:
    text = (Path(__file__).parents[2] / "docs" / "fim.md").read_text(encoding="utf-8")
    names = {*InfillRequest.model_fields, *HINTS, *UNSUPPORTED}
    assert [name for name in sorted(names) if f"`{name}`" not in text] == []


scalars = (
    st.none()
    | st.booleans()
    | st.integers(-3, 300)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
)
values = scalars | st.lists(scalars, max_size=3) | st.dictionaries(st.sampled_from(["text", "filename", "x"]), scalars)
fields = st.sampled_from(sorted({*InfillRequest.model_fields, *HINTS, *UNSUPPORTED, "nobody_knows"}))


@settings(max_examples=100)
@given(path=st.sampled_from(["/infill", "/completion"]), given_fields=st.dictionaries(fields, values, max_size=4))
def test_whatever_is_sent_is_answered_or_refused(path: str, given_fields: dict[str, Any]) -> None:
    engine = FakeEngine()
    engine.model.tokenizer = TOKENS
    app = create_app(engine, served_name="fake", chat_template=ChatTemplate(CHATML, TOKENS, source="x"))  # type: ignore[arg-type]

    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://befit") as client:
            return await client.post(path, json={**HOLE, **given_fields})

    response = asyncio.run(ask())
    assert response.status_code in (200, 400, 404), response.text
    if response.status_code != 200:
        assert response.json()["error"]["message"]
    assert engine.open == 0


async def test_slots_are_the_sequences_that_may_run(code, coder):
    slots = (await code.get("/slots")).json()
    assert [slot["is_processing"] for slot in slots] == [False] * 4
    assert slots[0] == {"id": 0, "n_ctx": CTX, "speculative": False, "is_processing": False}
    assert (await code.get("/slots?fail_on_no_slot=1")).status_code == 200
    coder.open = 3
    assert [slot["is_processing"] for slot in (await code.get("/slots")).json()] == [True] * 3 + [False]
    coder.open = 9
    assert (await code.get("/slots")).status_code == 200
    refused = await code.get("/slots?fail_on_no_slot=1")
    assert (refused.status_code, "retry-after" in refused.headers) == (503, True)
    assert (await code.get("/props")).json()["endpoint_slots"] is True


async def test_routes_have_llama_cpps_other_names_too(code):
    assert (await code.get("/v1/health")).json() == (await code.get("/health")).json() == {"status": "ok"}
    assert (await code.get("/models")).json() == (await code.get("/v1/models")).json()
    chat = {"messages": [{"role": "user", "content": "Hi"}]}
    assert (await code.post("/chat/completions", json=chat)).json()["object"] == "chat.completion"
