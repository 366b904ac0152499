"""Logits that are no numbers, in one sequence of a batch: that request fails, in its protocol's words, and no other."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from support.files import tiny_file

POISON = "Z"
CONST = {"const": f"hello {POISON} hello"}
CHAT = [{"role": "user", "content": f"hello {POISON}"}]
FINE_CHAT = [{"role": "user", "content": "hello"}]
SAYS = "The model produced logits that are not finite after "

WHOLE = {
    "/v1/completions": ({"prompt": f"hello {POISON}"}, 500),
    "/v1/chat/completions": ({"messages": CHAT}, 500),
    "/v1/responses": ({"input": f"hello {POISON}"}, 500),
    "/v1/embeddings": ({"input": f"hello {POISON}"}, 500),
    "/v1/messages": ({"messages": CHAT, "max_tokens": 8}, 500),
    "/api/generate": ({"model": "tiny", "prompt": f"hello {POISON}", "stream": False}, 500),
    "/api/chat": ({"model": "tiny", "messages": CHAT, "stream": False}, 500),
    "/api/embed": ({"model": "tiny", "input": f"hello {POISON}"}, 500),
    "/generate": ({"inputs": f"hello {POISON}"}, 424),
    "/completion": ({"prompt": f"hello {POISON}"}, 500),
}
"""Requests that fail at their prompt, and the protocol's status for that."""

STREAMED = {
    "/v1/completions": {"prompt": "hello", "guided_json": CONST},
    "/v1/chat/completions": {
        "messages": FINE_CHAT,
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": CONST}},
    },
    "/v1/responses": {"input": "hello", "text": {"format": {"type": "json_schema", "name": "n", "schema": CONST}}},
    "/v1/messages": {"messages": CHAT, "max_tokens": 8},
    "/api/generate": {"model": "tiny", "prompt": "hello", "format": CONST},
    "/api/chat": {"model": "tiny", "messages": FINE_CHAT, "format": CONST},
    "/generate_stream": {"inputs": "hello", "parameters": {"grammar": {"type": "json", "value": CONST}}},
}
"""Requests whose grammar leads them, after a few tokens, to the one that is no number; Anthropic's has no grammar."""


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory: pytest.TempPathFactory, start_for_module: Any) -> Any:
    """A server of a model that has NaN in the embedding of one token: whatever sees it computes NaN."""
    from befit.weights.gguf import GGUFFile

    path = tiny_file(tmp_path_factory.mktemp("numbers") / "tiny.gguf", context=8192, tied=False)
    with GGUFFile.open(path) as file:
        info = file.infos["token_embd.weight"]
        begin, row = info.start, info.nbytes // info.shape[0]
    with path.open("r+b") as raw:
        raw.seek(begin + row * ord(POISON))  # the bytes are the first tokens of the vocabulary
        raw.write(np.full(row // 4, np.nan, np.float32).tobytes())
    return start_for_module(path)


@pytest.fixture
def company(poisoned: Any) -> Iterator[list[str]]:
    """Four clients that ask all the while; every answer is the one that was given without company."""
    prompts = [f"hello {'hello ' * number}" for number in range(4)]
    alone = [poisoned.ask(prompt=prompt, max_tokens=40) for prompt in prompts]
    wrong: list[str] = []
    over = threading.Event()
    answered = [0] * len(prompts)

    def work(number: int) -> None:
        while not over.is_set() or not answered[number]:
            try:
                answer = poisoned.ask(prompt=prompts[number], max_tokens=40)
                answered[number] += 1
                if answer != alone[number]:
                    wrong.append(answer)
            except BaseException as error:
                wrong.append(repr(error))
                return

    clients = [threading.Thread(target=work, args=(number,)) for number in range(len(prompts))]
    for client in clients:
        client.start()
    yield wrong
    over.set()
    for client in clients:
        client.join(60)
    assert wrong == []
    poisoned.until_idle()


def test_a_sequence_that_is_no_number_fails_alone(poisoned: Any, company: list[str]) -> None:
    with httpx.Client(base_url=poisoned.url, timeout=60) as client:
        for _ in range(2):
            for path, (body, status) in WHOLE.items():
                answer = client.post(path, json=body)
                assert answer.status_code == status, (path, answer.text)
                error = answer.json()["error"]
                assert SAYS in (error if isinstance(error, str) else error["message"]), path
                if path.startswith("/v1/") and path != "/v1/messages":
                    assert error["code"] == "non_finite_logits"
                elif path == "/v1/messages":
                    assert error["type"] == "api_error"
                elif path == "/generate":
                    assert answer.json()["error_type"] == "generation"


def test_a_stream_says_so_where_it_ends(poisoned: Any, company: list[str]) -> None:
    for path, wishes in STREAMED.items():
        body = wishes if path == "/generate_stream" else {"stream": True, **wishes}
        answer = httpx.post(poisoned.url + path, json=body, timeout=60)
        lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line and "event:" not in line[:6]]
        objects = [json.loads(line) for line in lines if line != "[DONE]"]
        failed = [each for each in objects if SAYS in json.dumps(each)]
        assert len(failed) == 1, (path, answer.text)
        if path == "/v1/messages":
            assert failed[0]["error"]["type"] == "api_error"
            continue
        assert len(objects) > 1, f"{path}: nothing came before it"
        assert f"{SAYS}0 " not in json.dumps(failed)
        assert '"hello ' in "".join(_texts(objects)), path


def _texts(objects: list[Any]) -> Iterator[str]:
    """What the events of any protocol add to the answer."""
    for each in objects:
        choice = (each.get("choices") or [{}])[0]
        piece = choice.get("text") or choice.get("delta", {}).get("content") or each.get("response") or ""
        piece = piece if isinstance(piece, str) else ""
        if each.get("type") == "response.output_text.delta":
            piece = each["delta"]
        yield piece or (each.get("message") or {}).get("content", "") or (each.get("token") or {}).get("text", "")


def test_of_several_continuations_one_that_fails_is_the_request(poisoned: Any, company: list[str]) -> None:
    wishes = {"prompt": "hello", "n": 3, "temperature": 1, "seed": 1, "guided_json": CONST}
    answer = httpx.post(f"{poisoned.url}/v1/completions", json=wishes, timeout=60)
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "non_finite_logits"


@pytest.mark.parametrize("where", ["{0}{1}", "{1}{0}"])
def test_what_was_kept_of_it_is_nobodys_prefix(poisoned: Any, where: str) -> None:
    """The pages of a failed prompt are not used again. It is longer than a step: parts of it give no logits."""
    long = "hello " * 500
    expected = poisoned.ask(prompt=long)
    for _ in range(3):
        asked = {"prompt": where.format(long, POISON), "max_tokens": 4}
        answer = httpx.post(f"{poisoned.url}/v1/completions", json=asked)
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, "non_finite_logits")
        assert poisoned.ask(prompt=long) == expected
    poisoned.until_idle()
