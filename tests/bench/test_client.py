"""What the client makes of answers, good and bad."""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from befit.bench.client import send
from befit.bench.metrics import Record
from befit.bench.target import Prompt, Target
from befit.errors import BenchmarkFailed, ConfigError
from support.fake_openai import (
    DONE,
    HANGS,
    LOST,
    FakeOpenAI,
    Pieces,
    chat_event,
    chunked,
    event,
    good,
    head,
    stream,
    text_event,
    usage_of,
    whole,
)

Serving = Callable[..., FakeOpenAI]
PROMPT = Prompt("def one two", 3)


def ask(server: FakeOpenAI, prompt: Prompt = PROMPT, **options: Any) -> Record:
    target = Target(server.url, model="scripted", **options)
    return asyncio.run(send(target, target.request(prompt), Record(asked=prompt.max_tokens)))


def usage(output: Any, prompt: Any = 5) -> bytes:
    return event({"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": output}})


def test_a_good_answer_is_counted_as_the_server_counts(serving: Serving) -> None:
    server = serving()
    record = ask(server, keep_text=True)
    assert (record.error, record.detail) == ("", "")
    assert (record.prompt_tokens, record.output_tokens, record.cached_tokens) == (5, 3, 1)
    assert record.counted
    assert record.text == " w w w"
    assert record.finish_reason == "length"
    assert len(record.tokens) == 3
    assert record.sent <= record.tokens[0] <= record.tokens[-1] <= record.last <= record.end


def test_what_is_sent(serving: Serving) -> None:
    server = serving()
    ask(server, temperature=0.5)
    assert server.bodies == [
        {
            "model": "scripted",
            "prompt": "def one two",
            "max_tokens": 3,
            "temperature": 0.5,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ]


def test_a_chats_role_is_no_token(serving: Serving) -> None:
    server = serving()
    record = ask(server, Prompt("user text", 2, system="be brief"), chat=True, keep_text=True)
    assert record.error == ""
    assert len(record.tokens) == 2
    assert record.text == " w w"
    assert server.bodies[0]["messages"] == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "user text"},
    ]


def test_reasoning_and_tool_calls_are_output_too(serving: Serving) -> None:
    deltas = [{"reasoning_content": "hm"}, {"reasoning": "hm"}, {"tool_calls": [{"index": 0}]}, {"content": "so"}]
    server = serving(lambda _: stream(*map(chat_event, deltas), usage(4), DONE))
    assert len(ask(server, chat=True).tokens) == 4


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(cuts=st.lists(st.integers(1, 700), max_size=12))
def test_an_answer_split_at_any_bytes_is_the_same(serving: Serving, cuts: list[int]) -> None:
    def script(body: dict[str, Any]) -> Pieces:
        data = b"".join(good(body))
        edges = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
        return [data[a:b] for a, b in itertools.pairwise(edges)]

    record = ask(serving(script), keep_text=True)
    assert (record.error, record.text, record.output_tokens) == ("", " w w w", 3)


def test_a_stream_that_ends_with_its_connection(serving: Serving) -> None:
    headers = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nConnection: close\r\n\r\n"
    server = serving(lambda body: [headers, text_event("x"), event({"choices": [], "usage": usage_of(body, 1)}), DONE])
    assert ask(server).error == ""


def test_events_without_usage_are_counted_and_said_so(serving: Serving) -> None:
    record = ask(serving(lambda _: stream(text_event("a"), text_event("b"), DONE)))
    assert (record.error, record.output_tokens, record.counted, record.prompt_tokens) == ("", 2, False, None)


def test_tokens_without_text_are_no_error(serving: Serving) -> None:
    record = ask(serving(lambda _: stream(text_event("", "length"), usage(3), DONE)))
    assert (record.error, record.output_tokens, record.tokens) == ("", 3, [])
    assert record.ttft == record.e2e


@pytest.mark.parametrize(
    ("kind", "detail", "pieces"),
    [
        ("http_503", "the queue is full", whole({"error": {"message": "the queue is full"}}, "503 Busy")),
        ("http_404", "not here", whole({"error": "not here"}, "404 Not Found")),
        ("http_500", "<html>", whole(b"<html>", "500 Oops", "text/html")),
        ("http_500", "cut", [b"HTTP/1.1 500 Oops\r\n\r\ncut"]),
        ("not_a_stream", '{"choices"', whole({"choices": [{"text": "all at once"}]})),
        ("connection_lost", "after 1 events", [head(), *chunked(text_event("a"), end=False), LOST]),
        ("connection_lost", "after 0 events", [head(), LOST]),
        ("connection_lost", "after 0 events", [LOST]),
        ("connection_lost", "ended without [DONE], after 2", stream(text_event("a"), text_event("b", "length"))),
        ("connection_lost", "ended without [DONE], after 1", stream(text_event("a"), b"data: [DO")),
        ("bad_http", "HttpParser", [b"SSH-2.0-OpenSSH_9.2\r\n"]),
        ("bad_event", "not json", stream(b"data: not json\n\n", DONE)),
        ("bad_event", "list", stream(b"data: [1]\n\n", DONE)),
        ("bad_event", "choices", stream(event({"choices": {"text": "a"}}), DONE)),
        ("bad_event", "utf-8", stream(b"data: \xff\n\n", DONE)),
        ("error_event", "out of memory", stream(text_event("a"), event({"error": {"message": "out of memory"}}), DONE)),
        ("no_output", "no event", stream(usage(3), DONE)),
        ("no_output", "no event", stream(DONE)),
        ("bad_usage", "completion_tokens is 0", stream(text_event("a"), usage(0), DONE)),
        ("bad_usage", "completion_tokens is '3'", stream(text_event("a"), usage("3"), DONE)),
        ("bad_usage", "completion_tokens is None", stream(text_event("a"), usage(None), DONE)),
        ("bad_usage", "prompt_tokens is -1", stream(text_event("a"), usage(1, -1), DONE)),
        ("bad_usage", "prompt_tokens is True", stream(text_event("a"), usage(1, True), DONE)),
        ("bad_usage", "usage is [3]", stream(text_event("a"), event({"usage": [3]}), DONE)),
    ],
)
def test_failures_have_a_kind_and_say_what_happened(serving: Serving, kind: str, detail: str, pieces: Pieces) -> None:
    record = ask(serving(lambda _: pieces))
    assert record.error == kind
    assert detail in record.detail
    assert record.end >= record.sent


def test_an_answer_that_never_ends_times_out(serving: Serving) -> None:
    record = ask(serving(lambda _: [head(), *chunked(text_event("a"), end=False), HANGS]), timeout=1)
    assert record.error == "timeout"
    assert "1 events" in record.detail


def test_a_connection_left_open_after_the_last_event_is_not_waited_for(serving: Serving) -> None:
    record = ask(serving(lambda _: [head(), *chunked(text_event("a"), usage(1), DONE, end=False), HANGS]))
    assert (record.error, record.output_tokens) == ("", 1)


def test_a_server_that_goes_away(serving: Serving) -> None:
    server = serving()
    target = Target(server.url)
    server.close()
    record = asyncio.run(send(target, target.request(PROMPT), Record()))
    assert record.error in ("connect_failed", "connection_lost")


def test_nothing_there_is_told_at_once() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(BenchmarkFailed, match="Nothing answers"):
            Target(f"http://127.0.0.1:{unused.getsockname()[1]}/v1")


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://host/v1", "http:///v1"])
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="The URL is"):
        Target(url)


def test_the_key_is_sent_as_a_bearer_token(serving: Serving) -> None:
    target = Target(serving().url, api_key="secret")
    request = target.request(PROMPT)
    assert b"\r\nAuthorization: Bearer secret\r\n" in request
    headers, body = request.split(b"\r\n\r\n", 1)
    assert f"Content-Length: {len(body)}".encode() in headers
    assert "secret" not in json.dumps(json.loads(body))
