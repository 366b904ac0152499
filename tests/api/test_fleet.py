"""Several models on one port: loaded when they are asked for, within the memory, and gone when nobody wants them."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from types import SimpleNamespace

import httpx
import pytest

from befit.api.app import create_fleet_app
from befit.api.metrics import Metrics
from befit.api.models.fleet import Fleet
from befit.api.models.member import Loaded, Member
from befit.api.service import Service
from befit.errors import DoesNotFit

from .conftest import FakeEngine, PlainTemplate


class FakeLoader:
    """Models of 4 bytes each in a memory of 10; `stored` ones are found too."""

    def __init__(self) -> None:
        self.room = 10
        self.library = None
        self.pull = False
        self.stored = {"third": 4, "large": 11}
        self.engines: dict[str, FakeEngine] = {}
        self.loads: list[tuple[str, int, bool]] = []
        self.closed: list[str] = []
        self.held = self.most = self.at_once = 0
        self.slow = 0.0
        self.damaged = False

    def find(self, name: str, *, fetch: bool, check: object) -> Member | None:
        return Member((name,), name, Path(name), listed=False) if name in self.stored else None

    def rows(self) -> list:
        return []

    def load(self, member: Member, taken: int, *, exact: bool) -> Loaded:
        self.at_once += 1
        assert self.at_once == 1, "one at a time"
        try:
            time.sleep(self.slow)
            self.loads.append((member.name, taken, exact))
            size = self.stored.get(member.name, 4)
            if self.damaged:
                raise RuntimeError("damaged")
            if taken + size > self.room:
                raise DoesNotFit(f"{member.name} does not fit: {taken + size} of {self.room} bytes.")
        finally:
            self.at_once -= 1
        engine = self.engines[member.name] = FakeEngine(pieces=[member.name])
        program = SimpleNamespace(hidden_size=4, family="llama", max_context=200)
        engine.model.name, engine.model.program = member.name, program
        engine.model.parameters, engine.model.quantisation = 1000, "Q8_0"
        service = Service(engine, member.names, PlainTemplate(), Metrics(engine.stats, member.name), "0")
        self.held += size
        self.most = max(self.most, self.held)

        def close() -> None:
            self.held -= size
            self.closed.append(member.name)

        return Loaded(service, size, close)


@pytest.fixture
def loader() -> FakeLoader:
    return FakeLoader()


@pytest.fixture
async def fleet(loader: FakeLoader):
    first = Member(("first", "alias"), "first", Path("first"), default=None)
    fleet = Fleet([first, Member(("second",), "second", Path("second"), default=None)], loader)
    first.loaded = loader.load(first, 0, exact=False)
    await fleet.start()
    yield fleet
    await fleet.stop()


@pytest.fixture
async def client(fleet: Fleet):
    transport = httpx.ASGITransport(create_fleet_app(fleet), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://befit") as client:
        yield client


def in_memory(fleet: Fleet) -> list[str]:
    return [member.name for member in fleet.members if member.loaded is not None]


async def ask(client: httpx.AsyncClient, model: str | None, **fields) -> httpx.Response:
    body = {"prompt": "Hi", "stream": False, **({"model": model} if model else {}), **fields}
    return await client.post("/api/generate", json=body)


async def until(condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.001)


@pytest.mark.parametrize(
    ("path", "body", "text"),
    [
        ("/api/generate", {"prompt": "x", "stream": False}, lambda body: body["response"]),
        ("/api/chat", {"messages": [{"role": "user", "content": "x"}], "stream": False},
         lambda body: body["message"]["content"]),
        ("/v1/completions", {"prompt": "x"}, lambda body: body["choices"][0]["text"]),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]},
         lambda body: body["choices"][0]["message"]["content"]),
        ("/v1/responses", {"input": "x"}, lambda body: body["output"][0]["content"][0]["text"]),
        ("/v1/messages", {"messages": [{"role": "user", "content": "x"}], "max_tokens": 9},
         lambda body: body["content"][0]["text"]),
        ("/completion", {"prompt": "x"}, lambda body: body["content"]),
    ],
)  # fmt: skip
async def test_every_protocol_gets_the_model_that_it_names(client, path, body, text):
    for name, answered in (("first", "first"), ("alias", "first"), ("second", "second"), ("third", "third")):
        answer = await client.post(path, json={**body, "model": name})
        assert (answer.status_code, text(answer.json())) == (200, answered)
    assert text((await client.post(path, json=body | {"model": "first"})).json()) == "first"


async def test_requests_that_name_none_get_the_first(client):
    assert (await client.post("/generate", json={"inputs": "x"})).json()["generated_text"] == "first"
    assert (await ask(client, None)).json()["response"] == "first"
    assert (await ask(client, "nobody")).status_code == 404


async def test_a_model_is_loaded_once_for_many_requests(client, loader):
    loader.slow = 0.05
    answers = await asyncio.gather(
        *(ask(client, "second") for _ in range(5)), *(ask(client, "first") for _ in range(5))
    )
    assert {answer.status_code for answer in answers} == {200}
    assert [name for name, *_ in loader.loads] == ["first", "second"]


async def test_the_least_recently_used_makes_room(client, fleet, loader):
    await ask(client, "second")
    await ask(client, "first")
    assert (await ask(client, "third")).json()["response"] == "third"
    assert in_memory(fleet) == ["first", "third"]
    assert loader.closed == ["second"]
    assert not loader.engines["second"].alive
    # Weights are rounded only when nothing else could go.
    assert loader.loads[-2:] == [("third", 8, True), ("third", 4, True)]
    assert (await ask(client, "second")).json()["response"] == "second"


async def test_models_in_use_stay(client, fleet, loader):
    await ask(client, "second")
    gate = loader.engines["first"].gate = loader.engines["second"].gate = asyncio.Event()
    running = [asyncio.ensure_future(ask(client, name)) for name in ("first", "second")]
    await until(lambda: all(engine.open for engine in loader.engines.values()))
    refused = await ask(client, "third")
    assert refused.status_code == 503
    assert refused.headers["retry-after"]
    assert "12 of 10 bytes" in refused.json()["error"]
    assert "first (0.00 GB), second (0.00 GB)" in refused.json()["error"]
    gate.set()
    assert [answer.json()["response"] for answer in await asyncio.gather(*running)] == ["first", "second"]
    assert in_memory(fleet) == ["first", "second"]
    assert (await ask(client, "third")).status_code == 200


async def test_what_never_fits_is_refused_and_the_next_request_is_served(client, fleet):
    refused = await ask(client, "large")
    assert refused.status_code == 503
    assert "11 of 10 bytes" in refused.json()["error"]
    assert (await ask(client, "first")).json()["response"] == "first"
    assert [member.name for member in fleet.members] == ["first", "second"]


async def test_a_load_that_fails_fails_alone(client, fleet, loader):
    loader.damaged = True
    assert (await ask(client, "second")).status_code == 500
    assert in_memory(fleet) == ["first"]
    loader.damaged = False
    assert (await ask(client, "second")).status_code == 200


async def test_models_that_were_asked_for_go_after_a_while(client, fleet):
    await ask(client, "third", keep_alive="1h")
    assert "third" in in_memory(fleet)
    [entry] = [one for one in (await client.get("/api/ps")).json()["models"] if one["name"] == "third"]
    left = datetime.fromisoformat(entry["expires_at"]) - datetime.now(UTC)
    assert 3000 < left.total_seconds() <= 3600
    await ask(client, "third", keep_alive="5ms")
    await until(lambda: in_memory(fleet) == ["first"])
    assert [member.name for member in fleet.members] == ["first", "second"]
    await ask(client, "third")
    assert next(one for one in fleet.members if one.name == "third").expires == pytest.approx(300, abs=60)
    await ask(client, "third", keep_alive=-1)
    assert next(one for one in fleet.members if one.name == "third").expires is None


async def test_a_request_of_the_background_keeps_its_model(client, fleet, loader):
    await ask(client, "second", keep_alive="1h")
    loader.engines["second"].open = 1
    await ask(client, "second", keep_alive="5ms")
    await asyncio.sleep(0.05)
    assert "second" in in_memory(fleet)
    loader.engines["second"].open = 0


async def test_an_empty_prompt_loads_and_unloads(client, fleet, loader):
    for path in ("/api/generate", "/api/chat"):
        loaded = (await client.post(path, json={"model": "second"})).json()
        assert (loaded["done"], loaded["done_reason"]) == (True, "load")
        assert "second" in in_memory(fleet)
        gone = (await client.post(path, json={"model": "second", "keep_alive": 0})).json()
        assert (gone["done"], gone["done_reason"]) == (True, "unload")
        assert "second" not in in_memory(fleet)
    assert loader.engines["second"].seen == []


async def test_unloading_waits_for_what_runs(client, fleet, loader):
    gate = loader.engines["first"].gate = asyncio.Event()
    running = asyncio.ensure_future(ask(client, "first"))
    await until(lambda: loader.engines["first"].open)
    await ask(client, "first", prompt="", keep_alive=0)
    assert "first" in in_memory(fleet)
    gate.set()
    assert (await running).json()["response"] == "first"
    await until(lambda: in_memory(fleet) == [])
    assert (await client.get("/health")).status_code == 200
    assert (await client.post("/generate", json={"inputs": "x"})).json()["generated_text"] == "first"


async def test_lists_have_models_that_are_not_in_memory(client):
    listed = (await client.get("/v1/models")).json()["data"]
    assert [(one["id"], one["max_model_len"]) for one in listed] == [("first", 200), ("alias", 200), ("second", None)]
    assert (await client.get("/v1/models/second")).json()["id"] == "second"
    assert [one["name"] for one in (await client.get("/api/ps")).json()["models"]] == ["first", "alias"]
    headers = {"anthropic-version": "2023-06-01"}
    assert len((await client.get("/v1/models", headers=headers)).json()["data"]) == 3


async def test_metrics_have_each_model_once(client):
    await ask(client, "second")
    text = (await client.get("/metrics")).text
    assert text.count("# TYPE befit:num_requests_running gauge") == 1
    for name in ("first", "second"):
        assert f'befit:num_requests_running{{model_name="{name}"}}' in text


async def test_a_stream_holds_its_model_to_the_end(client, fleet, loader):
    await ask(client, "second", keep_alive=0.01)
    await until(lambda: "second" not in in_memory(fleet))
    async with client.stream(
        "POST", "/api/generate", json={"model": "second", "prompt": "x", "keep_alive": 0}
    ) as answer:
        lines = [json.loads(line) async for line in answer.aiter_lines()]
    assert lines[-1]["done"]
    await until(lambda: "second" not in in_memory(fleet))


async def test_looking_at_a_model_leaves_nothing_behind(client, fleet):
    assert (await client.get("/v1/models/third")).json()["id"] == "third"
    assert (await client.get("/v1/models/nobody")).status_code == 404
    assert [member.name for member in fleet.members] == ["first", "second"]


async def test_any_order_of_requests_is_answered_within_the_memory(client, fleet, loader):
    """Each answer is from the model that it named, or says that there is no room now; no engine stops with requests."""
    random = Random(7)

    async def some() -> None:
        for _ in range(20):
            name = random.choice(["first", "second", "third"])
            answer = await ask(client, name, keep_alive=random.choice([0, "5ms", "1m", -1]))
            if answer.status_code == 200:
                assert answer.json()["response"] == name
            else:
                assert answer.status_code == 503
                assert "In use are" in answer.json()["error"]
            await asyncio.sleep(random.random() / 100)

    await asyncio.gather(*(some() for _ in range(6)))
    assert loader.most == 8
    assert len(loader.loads) > 10


async def test_a_draining_server_loads_nothing(client, fleet):
    await fleet.drain(1)
    assert (await ask(client, "second")).status_code == 503


async def test_preloading(loader):
    fleet = Fleet([Member(("second",), "second", Path("second"), default=None)], loader, preload=True)
    await fleet.start()
    assert in_memory(fleet) == ["second"]
    await fleet.stop()
    assert loader.closed == ["second"]
