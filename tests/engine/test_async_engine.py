"""The engine behind asyncio: many at once, cancelling, draining, stopping, and every way to die."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from befit.engine import async_engine
from befit.engine.async_engine import AsyncEngine
from befit.engine.load import LoadedModel
from befit.engine.outputs import Delta
from befit.errors import ContextExceeded, EngineDead, InvalidRequest, Overloaded, RequestFailed
from befit.sampling import SamplingParams

PROMPT = [5, 6, 7, 8, 9, 10]
POISON = 1


def greedy(**wishes: Any) -> SamplingParams:
    return SamplingParams(**{"temperature": 0, "max_tokens": 12, "ignore_eos": True, **wishes})


@pytest.fixture
def model(make_model: Callable[..., LoadedModel]) -> LoadedModel:
    return make_model()


@pytest.fixture
async def engine(model: LoadedModel) -> AsyncIterator[AsyncEngine]:
    engine = AsyncEngine(model)
    await engine.start()
    yield engine
    await engine.stop()


async def collect(engine: AsyncEngine, prompt: list[int], params: SamplingParams, **wishes: Any) -> list[Delta]:
    return [delta async for delta in engine.generate(prompt, params, **wishes)]


def tokens_of(deltas: list[Delta], index: int = 0) -> list[int]:
    return [token for delta in deltas if delta.index == index for token in delta.token_ids]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.001)


class Gate:
    """Holds the backend's steps until it is opened, so that a test knows when a step is running."""

    def __init__(self, model: LoadedModel) -> None:
        self.entered = threading.Event()
        self.open = threading.Event()
        model.backend.before = self._pass  # type: ignore[attr-defined]

    def _pass(self) -> None:
        self.entered.set()
        assert self.open.wait(60)


async def test_many_at_once_each_get_their_own_answer(engine: AsyncEngine, alone: Any) -> None:
    prompts = [[2 + (i * j) % 25 for j in range(1 + i % 11)] for i in range(60)]
    wishes = [SamplingParams(seed=i, n=1 + i % 3, max_tokens=1 + i % 9) for i in range(60)]
    answers = await asyncio.gather(*(collect(engine, p, w) for p, w in zip(prompts, wishes, strict=True)))
    for prompt, params, deltas in zip(prompts, wishes, answers, strict=True):
        for index in range(params.n):
            assert tokens_of(deltas, index) == alone(prompt, params, number=index).token_ids
        assert sum(delta.finish_reason is not None for delta in deltas) == params.n
    stats = engine.stats()
    assert (stats.running, stats.waiting, stats.kv_usage) == (0, 0, 0.0)
    assert stats.output_tokens_total == sum(len(delta.token_ids) for deltas in answers for delta in deltas)


async def test_deltas_of_one_step_cross_the_threads_together(
    model: LoadedModel, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0
    loop = asyncio.get_running_loop()
    post = loop.call_soon_threadsafe

    def counting(callback: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += threading.current_thread().name == "befit-engine"
        return post(callback, *args, **kwargs)

    monkeypatch.setattr(loop, "call_soon_threadsafe", counting)
    await asyncio.gather(*(collect(engine, [5 + i], greedy()) for i in range(4)))
    assert calls <= model.backend.steps  # type: ignore[attr-defined]


async def test_a_text_reaches_its_client_while_the_next_step_runs(model: LoadedModel, engine: AsyncEngine) -> None:
    held = 2
    gate = Gate(model)
    hold = model.backend.before  # type: ignore[attr-defined]
    model.backend.before = lambda: hold() if model.backend.steps == held else None  # type: ignore[attr-defined]
    stream = engine.generate(PROMPT, greedy(max_tokens=3))
    async with asyncio.timeout(60):
        first = await anext(stream)
        await asyncio.to_thread(gate.entered.wait, 60)
    assert len(first.token_ids) == 1
    gate.open.set()
    assert len([delta async for delta in stream]) == 2


async def test_the_engine_waits_for_texts_that_are_far_behind(
    model: LoadedModel, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(async_engine, "MOST_BEHIND", 4)
    task = asyncio.create_task(collect(engine, PROMPT, greedy(max_tokens=40)))
    await asyncio.sleep(0)
    time.sleep(0.3)  # the event loop has no time for texts
    assert model.backend.steps <= 5  # type: ignore[attr-defined]
    assert len(tokens_of(await task)) == 40


async def test_a_stop_string_ends_the_engines_part_too(
    model: LoadedModel, engine: AsyncEngine, alone: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(async_engine, "MOST_BEHIND", 4)
    params = greedy(stop=[alone(PROMPT, greedy()).text[2:4]], max_tokens=50)
    expected = alone(PROMPT, params)
    deltas = await collect(engine, PROMPT, params)
    assert tokens_of(deltas) == expected.token_ids
    assert "".join(delta.text for delta in deltas) == expected.text
    assert (deltas[-1].finish_reason, deltas[-1].stop_reason) == ("stop", params.stop[0])
    await until(lambda: engine.stats().running == 0 and engine.stats().kv_blocks_used == 0)
    assert engine.stats().output_tokens_total == len(expected.token_ids)
    assert model.backend.steps < 50  # type: ignore[attr-defined]


@pytest.mark.parametrize("how", ["close", "cancel", "break"])
async def test_a_client_that_goes_away_frees_its_pages(model: LoadedModel, engine: AsyncEngine, how: str) -> None:
    model.backend.before = lambda: threading.Event().wait(0.002)  # type: ignore[attr-defined]
    stream = engine.generate(PROMPT, greedy(max_tokens=50, n=2))
    if how == "close":
        await anext(stream)
        await stream.aclose()
    elif how == "cancel":
        task = asyncio.create_task(collect(engine, PROMPT, greedy(max_tokens=50)))
        await until(lambda: engine.stats().running == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    else:
        async for _ in stream:
            break
        del stream
    await until(lambda: engine.stats().running == 0 and engine.stats().kv_blocks_used == 0)
    assert len(tokens_of(await collect(engine, PROMPT, greedy()))) == 12


async def test_a_request_aborted_before_the_engine_saw_it_never_runs(model: LoadedModel, engine: AsyncEngine) -> None:
    gate = Gate(model)
    first = asyncio.create_task(collect(engine, PROMPT, greedy()))
    await asyncio.to_thread(gate.entered.wait, 60)
    second = asyncio.create_task(collect(engine, PROMPT, greedy(), request_id="second"))
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    gate.open.set()
    await first
    await until(lambda: not engine._core.has_work)
    assert engine.stats().output_tokens_total == 12


async def test_wrong_requests_raise_before_any_delta(engine: AsyncEngine) -> None:
    with pytest.raises(InvalidRequest):
        await anext(engine.generate([], greedy()))
    with pytest.raises(ContextExceeded):
        await anext(engine.generate([5] * 100, greedy()))
    stream = engine.generate(PROMPT, greedy(max_tokens=40), request_id="same")
    await anext(stream)
    with pytest.raises(InvalidRequest, match="in use"):
        await anext(engine.generate(PROMPT, greedy(), request_id="same"))
    assert len(tokens_of([delta async for delta in stream])) == 39


async def test_errors_stay_with_their_request(engine: AsyncEngine) -> None:
    bad, good = await asyncio.gather(
        collect(engine, [5, POISON], greedy()), collect(engine, PROMPT, greedy()), return_exceptions=False
    )
    assert bad[-1].finish_reason == "error"
    assert bad[-1].error is not None
    assert good[-1].finish_reason == "length"


async def test_a_full_queue_refuses_with_its_numbers(make_model: Callable[..., LoadedModel]) -> None:
    model = make_model(max_seqs=1, max_queue=2)
    gate = Gate(model)
    engine = AsyncEngine(model)
    await engine.start()
    running = asyncio.create_task(collect(engine, PROMPT, greedy()))
    await asyncio.to_thread(gate.entered.wait, 60)
    waiting = [asyncio.create_task(collect(engine, PROMPT, greedy())) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded, match="2 requests are waiting and the queue holds 2"):
        await anext(engine.generate(PROMPT, greedy()))
    gate.open.set()
    for deltas in await asyncio.gather(running, *waiting):
        assert deltas[-1].finish_reason == "length"
    await engine.stop()


async def test_draining_finishes_what_runs_and_takes_nothing_new(model: LoadedModel, engine: AsyncEngine) -> None:
    gate = Gate(model)
    running = asyncio.create_task(collect(engine, PROMPT, greedy()))
    await asyncio.to_thread(gate.entered.wait, 60)
    assert not await engine.drain(timeout=0.01)
    with pytest.raises(Overloaded, match="shutting down"):
        await anext(engine.generate(PROMPT, greedy()))
    gate.open.set()
    assert await engine.drain(timeout=60)
    assert (await running)[-1].finish_reason == "length"
    assert engine.alive


async def test_draining_an_idle_engine_returns_at_once(engine: AsyncEngine) -> None:
    assert await engine.drain(timeout=60)


async def test_the_servers_own_cpu_time_leaves_out_the_backends_steps(model: LoadedModel) -> None:
    engine = AsyncEngine(model)
    assert engine.stats().cpu_seconds is None
    await engine.start()
    await collect(engine, PROMPT, greedy())
    before = engine.stats().cpu_seconds
    if before is None:
        pytest.skip("this system has no clocks of other threads")
    model.backend.before = lambda: burn(0.03)  # type: ignore[attr-defined]
    await collect(engine, PROMPT, greedy(max_tokens=10))
    await engine.stop()
    after = engine.stats().cpu_seconds
    assert after is not None
    assert 0 < after - before < 0.3


def burn(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


async def test_stopping_aborts_what_is_left(model: LoadedModel) -> None:
    engine = AsyncEngine(model)
    await engine.start()
    gate = Gate(model)
    running = [asyncio.create_task(collect(engine, PROMPT, greedy(n=2))) for _ in range(3)]
    await asyncio.to_thread(gate.entered.wait, 60)
    stop = asyncio.create_task(engine.stop())
    await asyncio.sleep(0)
    gate.open.set()
    await stop
    for deltas in await asyncio.gather(*running):
        assert [delta.finish_reason for delta in deltas if delta.finish_reason] == ["abort", "abort"]
    assert not engine.alive
    assert engine.stats().kv_blocks_used == 0
    with pytest.raises(EngineDead):
        await anext(engine.generate(PROMPT, greedy()))


async def test_an_engine_that_was_not_started_serves_nothing(model: LoadedModel) -> None:
    engine = AsyncEngine(model)
    with pytest.raises(EngineDead):
        await anext(engine.generate(PROMPT, greedy()))
    await engine.stop()


async def test_after_three_failed_steps_everybody_is_told(make_model: Callable[..., LoadedModel]) -> None:
    model = make_model(max_seqs=1)
    model.backend.fail = lambda step: OSError("gone")  # type: ignore[attr-defined]
    gate = Gate(model)
    engine = AsyncEngine(model)
    await engine.start()
    tasks = [asyncio.create_task(collect(engine, PROMPT, greedy(n=2))) for _ in range(4)]
    await asyncio.to_thread(gate.entered.wait, 60)
    gate.open.set()
    answers = await asyncio.gather(*tasks)
    kinds = [type(deltas[-1].error) for deltas in answers]
    assert kinds == [RequestFailed] * 3 + [EngineDead]
    assert not engine.alive
    with pytest.raises(EngineDead):
        await anext(engine.generate(PROMPT, greedy()))
    await engine.stop()


async def test_a_crash_of_the_loop_reaches_every_consumer(model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = AsyncEngine(model)
    await engine.start()
    gate = Gate(model)
    tasks = [asyncio.create_task(collect(engine, PROMPT, greedy(n=2))) for _ in range(3)]
    await asyncio.to_thread(gate.entered.wait, 60)
    monkeypatch.setattr(engine._core.scheduler, "advance", lambda *_: 1 / 0)
    gate.open.set()
    for deltas in await asyncio.gather(*tasks):
        assert [type(delta.error) for delta in deltas[-2:]] == [EngineDead, EngineDead]
    assert not engine.alive
    assert await engine.drain(timeout=60)
    await engine.stop()


async def test_a_broken_observer_disturbs_nobody(engine: AsyncEngine, caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        def __getattr__(self, name: str) -> Any:
            def fail(*_: object) -> None:
                raise RuntimeError(name)

            return fail

    engine.observer = Broken()
    for _ in range(2):
        assert (await collect(engine, PROMPT, greedy()))[-1].finish_reason == "length"
    assert len([record for record in caplog.records if "observer" in record.message]) <= 6


async def test_the_observer_hears_what_happens(model: LoadedModel) -> None:
    heard: list[tuple[Any, ...]] = []

    class Observer:
        def __getattr__(self, name: str) -> Any:
            return lambda *args: heard.append((name, *args))

    engine = AsyncEngine(model, Observer())
    await engine.start()
    await collect(engine, PROMPT, greedy(max_tokens=3))
    await engine.stop()
    # Steps and texts are told about by two threads, each in its order.
    assert [name for name, *_ in heard if name in ("request_arrived", "step")] == ["request_arrived", *["step"] * 3]
    assert [name for name, *_ in heard if name not in ("request_arrived", "step")] in (
        ["first_token", "tokens", "tokens", "finished"],
        ["first_token", "tokens", "finished", "tokens"],
    )
    finished = next(args for name, *args in heard if name == "finished")
    assert finished[:4] == ["length", 6, 3, 0]
    assert [args[0] for name, *args in heard if name == "step"] == [6, 1, 1]
