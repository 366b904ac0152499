"""Keys, limits, timeouts, origins and the access log, in front of every protocol."""

from __future__ import annotations

import asyncio
import logging

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from befit.api.app import create_app
from befit.api.guard.keys import Keys, read_keys
from befit.api.guard.limits import Account, Limits
from befit.api.guard.middleware import Rules, is_open
from befit.errors import ConfigError, RateLimited

from .conftest import FakeEngine, PlainTemplate

KEY, OTHER = "correct-horse", "battery-staple"
CHAT = {"messages": [{"role": "user", "content": "Hi"}]}
BY_PROTOCOL = {
    "/v1/chat/completions": CHAT,
    "/v1/messages": {**CHAT, "max_tokens": 9},
    "/api/chat": {**CHAT, "stream": False},
    "/generate": {"inputs": "Hi"},
    "/completion": {"prompt": "Hi"},
}


@pytest.fixture
def guarded(engine: FakeEngine):
    def make(**options):
        app = create_app(
            engine, served_name="fake", chat_template=PlainTemplate(), origins=options.pop("origins", ()),
            rules=Rules(**options),
        )  # fmt: skip
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        return httpx.AsyncClient(transport=transport, base_url="http://befit")

    return make


async def test_every_route_but_probes_and_pages_wants_a_key(guarded):
    async with guarded(keys=Keys.of([KEY])) as client:
        paths = (await client.get("/openapi.json", headers={"authorization": f"Bearer {KEY}"})).json()["paths"]
        for path, methods in paths.items():
            for method in methods:
                answer = await client.request(method, path.replace("{", "x").replace("}", "x"), json={})
                assert (answer.status_code == 401) != is_open(method.upper(), path), (method, path, answer.status_code)


async def test_pages_open_without_a_key_and_what_else_is_asked_of_their_paths_does_not(guarded):
    async with guarded(keys=Keys.of([KEY])) as client:
        for path in ("/", "/docs"):
            assert (await client.get(path)).status_code == (await client.head(path)).status_code == 200
        assert (await client.post("/", json={"inputs": "Hi"})).status_code == 401
        assert (await client.get("/openapi.json")).status_code == 401
        assert (await client.get("/stats")).status_code == 401


@pytest.mark.parametrize("path", sorted(BY_PROTOCOL))
async def test_keys_are_taken_as_clients_send_them_and_refused_in_their_shape(guarded, path):
    async with guarded(keys=Keys.of([KEY, OTHER])) as client:
        for header in ({"authorization": f"Bearer {OTHER}"}, {"x-api-key": KEY}, {"api-key": KEY}):
            assert (await client.post(path, json=BY_PROTOCOL[path], headers=header)).status_code == 200
        for header in ({}, {"x-api-key": KEY + "x"}, {"authorization": f"Basic {KEY}"}, {"authorization": "Bearer"}):
            answer = await client.post(path, json=BY_PROTOCOL[path], headers=header)
            assert answer.status_code == 401
            assert "error" in answer.json()


def test_keys_are_kept_as_hashes(tmp_path):
    keys = Keys.of([KEY])
    assert KEY not in repr(keys)
    assert keys.find(KEY) == keys.find(KEY) != None  # noqa: E711
    file = tmp_path / "keys"
    file.write_text(f"# mine\n\n{KEY}\n  {OTHER}  \n")
    assert read_keys(file) == [KEY, OTHER]
    with pytest.raises(ConfigError, match="7 characters"):
        Keys.of(["too few"])
    with pytest.raises(ConfigError, match="cannot be read"):
        read_keys(tmp_path / "none")


@given(known=st.lists(st.text(min_size=8), min_size=1), asked=st.text())
def test_a_key_is_found_exactly_if_it_is_one(known, asked):
    keys = Keys.of(known)
    assert all(keys.find(key) for key in known)
    assert (keys.find(asked) is not None) == (asked in known)


async def test_one_key_finds_nothing_of_anothers_prompts(guarded, engine):
    async with guarded(keys=Keys.of([KEY, OTHER])) as client:
        for key in (KEY, OTHER):
            await client.post("/v1/chat/completions", json=CHAT, headers={"x-api-key": key})
    first, second = (options["cache_salt"] for _, _, options in engine.seen)
    assert first != second


async def test_so_many_requests_of_a_key_run_at_once(guarded, engine):
    engine.gate = asyncio.Event()
    async with guarded(keys=Keys.of([KEY, OTHER]), limits=Limits(requests_at_once=1)) as client:

        async def ask(key):
            return await client.post("/v1/chat/completions", json=CHAT, headers={"x-api-key": key})

        first = asyncio.ensure_future(ask(KEY))
        while not engine.open:
            await asyncio.sleep(0)
        refused = await ask(KEY)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert refused.json()["error"]["code"] == "rate_limited"
        another = asyncio.ensure_future(ask(OTHER))
        while engine.open < 2:
            await asyncio.sleep(0)
        engine.gate.set()
        assert [(await one).status_code for one in (first, another)] == [200, 200]
        assert (await ask(KEY)).status_code == 200


async def test_tokens_a_minute_are_prompts_and_outputs(guarded):
    async with guarded(limits=Limits(tokens_per_minute=20)) as client:
        assert (await client.post("/generate", json={"inputs": "Hi"})).status_code == 200  # 3 and 12
        assert (await client.post("/generate", json={"inputs": "Hi"})).status_code == 200  # overdraws
        refused = await client.post("/generate", json={"inputs": "Hi"})
        assert (refused.status_code, refused.json()["error_type"]) == (429, "overloaded")
        assert 25 <= int(refused.headers["retry-after"]) <= 35
        assert (await client.get("/v1/models")).status_code == 200


def test_an_account_is_refilled_by_time():
    now = [0.0]
    account = Account(Limits(tokens_per_minute=60), clock=lambda: now[0])
    account.enter()
    account.charge(90)
    with pytest.raises(RateLimited) as refused:
        account.enter()
    assert refused.value.retry_after == 31
    now[0] = 31
    account.enter()
    now[0] = 1000  # a long rest is worth a minute
    account.enter()
    account.charge(61)
    with pytest.raises(RateLimited):
        account.enter()


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_that_takes_too_long_is_ended(guarded, engine, stream):
    engine.gate = asyncio.Event()
    async with guarded(timeout=0.5 if stream else 0.02) as client:  # a stream begins, and then takes too long
        answer = await client.post("/v1/chat/completions", json={**CHAT, "stream": stream})
    assert answer.status_code == (200 if stream else 504)
    assert "request_timeout" in answer.text
    assert engine.open == 0


async def test_bodies_are_limited(guarded):
    async with guarded(max_body=100) as client:
        answer = await client.post("/v1/messages", json={**CHAT, "max_tokens": 5, "system": "x" * 200})
    assert answer.status_code == 413
    assert answer.json()["error"]["type"] == "request_too_large"


async def test_pages_of_other_origins_are_let_in_only_where_that_is_asked_for(guarded):
    origin = {"origin": "http://page"}
    asks = {**origin, "access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    async with guarded(keys=Keys.of([KEY])) as client:
        answer = await client.post("/generate", json={"inputs": "Hi"}, headers={**origin, "x-api-key": KEY})
        assert "access-control-allow-origin" not in answer.headers
    async with guarded(keys=Keys.of([KEY]), origins=("http://page",)) as client:
        before = await client.options("/generate", headers=asks)  # a browser sends no key with it
        assert before.status_code == 200
        assert before.headers["access-control-allow-origin"] == "http://page"
        answer = await client.post("/generate", json={"inputs": "Hi"}, headers={**origin, "x-api-key": KEY})
        assert answer.headers["access-control-allow-origin"] == "http://page"
        strange = await client.options("/generate", headers={**asks, "origin": "http://other"})
        assert "access-control-allow-origin" not in strange.headers


async def test_the_access_log_has_a_line_a_request_and_never_the_key(guarded, caplog):
    caplog.set_level(logging.INFO, logger="befit.access")
    async with guarded(keys=Keys.of([KEY]), access_log=True) as client:
        await client.post("/generate", json={"inputs": "Hi"}, headers={"x-api-key": KEY, "x-request-id": "r1"})
        await client.get("/v1/models?key=secret")
    first, second = (record.getMessage() for record in caplog.records)
    assert first.startswith("r1 ")
    assert " POST /generate 200 " in first
    assert Keys.of([KEY]).find(KEY) in first
    assert " GET /v1/models 401 " in second
    assert KEY not in caplog.text
    assert "secret" not in caplog.text
