"""Files of requests: every line gets one line, whatever is in it and however often the run is ended."""

import asyncio
import json

import pytest

from befit.api.openai.batch import count_lines, read_lines, run_batch
from befit.errors import ConfigError, EngineDead


def line(name, url="/v1/completions", **body):
    default = {
        "/v1/completions": {"prompt": "ab"},
        "/v1/chat/completions": {"messages": [{"role": "user", "content": "hi"}]},
        "/v1/embeddings": {"input": "ab"},
        "/v1/responses": {"input": "ab"},
    }
    return {"custom_id": name, "method": "POST", "url": url, "body": {**default.get(url, {}), **body}}


def write(path, lines):
    path.write_text("".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in lines))
    return path


def read(path):
    return [json.loads(text) for text in path.read_text().splitlines()]


@pytest.fixture
def files(tmp_path):
    return tmp_path / "in.jsonl", tmp_path / "out.jsonl"


async def test_every_endpoint(app, files):
    source, target = files
    urls = ["/v1/completions", "/v1/chat/completions", "/v1/embeddings", "/v1/responses"]
    write(source, [line(url, url) for url in urls])
    totals = await run_batch(app, source, target, at_once=2)
    assert (totals.answered, totals.failed) == (4, 0)
    found = {one["custom_id"]: one for one in read(target)}
    assert found.keys() == {*urls}
    for one in found.values():
        assert one["error"] is None
        assert one["id"].startswith("batch_req_")
        assert one["response"]["status_code"] == 200
        assert one["response"]["request_id"]
    assert found["/v1/completions"]["response"]["body"]["choices"][0]["text"] == "Hello wörld"


async def test_errors_are_told_line_by_line(app, files):
    source, target = files
    write(
        source,
        [
            line("good"),
            "nonsense",
            "",
            "[]",
            line("good"),
            {**line("get"), "method": "GET"},
            line("url", "/v1/images"),
            {**line("body"), "body": 5},
            line("stream", stream=True),
            {"url": "/v1/completions", "body": {}},
            line("field", nobody_knows=1),
            line("model", model="gpt"),
        ],
    )
    assert count_lines(source) == 11
    totals = await run_batch(app, source, target, at_once=3)
    assert (totals.answered, totals.failed) == (1, 10)
    found = read(target)
    wrong = {one["error"]["line"]: one["error"]["message"] for one in found if one["error"]}
    assert sorted(wrong) == [2, 4, 5, 6, 7, 8, 9, 10]
    assert "used before" in wrong[5]
    assert "Line 9" in wrong[9]
    statuses = {one["custom_id"]: one["response"]["status_code"] for one in found if one["response"]}
    assert statuses == {"good": 200, "field": 400, "model": 404}


@pytest.mark.parametrize("cut", [0, 1, 5])
async def test_a_run_that_was_ended_goes_on_where_it_was(app, engine, files, cut):
    source, target = files
    write(source, [line(f"r{i}") if i % 5 else "nonsense" for i in range(12)])
    await run_batch(app, source, target, at_once=1)
    whole = read(target)
    kept = [json.dumps(one) + "\n" for one in whole[:6]]
    target.write_text("".join(kept) + (json.dumps(whole[6])[: -cut or None])[: cut * 20])
    engine.seen.clear()
    totals = await run_batch(app, source, target, at_once=1)
    assert totals.before == 6
    assert totals.answered + totals.failed == 6
    found = read(target)
    assert len(found) == 12
    assert {one["custom_id"] for one in found if one["custom_id"]} == {f"r{i}" for i in range(12) if i % 5}
    assert sorted(one["error"]["line"] for one in found if one["error"]) == [1, 6, 11]
    assert (await run_batch(app, source, target, at_once=1)).before == 12


async def test_a_cancelled_run_leaves_whole_lines_and_an_idle_engine(app, engine, files):
    source, target = files
    write(source, [line(f"r{i}") for i in range(50)])
    task = asyncio.ensure_future(run_batch(app, source, target, at_once=4))
    while not target.exists() or len(target.read_bytes()) < 1000:
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert engine.open == 0
    before = len(read(target))
    assert 0 < before < 50
    totals = await run_batch(app, source, target, at_once=4)
    assert (totals.before, totals.answered) == (before, 50 - before)


async def test_no_more_than_asked_for_run_at_once(app, engine, files):
    source, target = files
    write(source, [line(f"r{i}") for i in range(20)])
    most = []
    await run_batch(app, source, target, at_once=3, on_done=lambda totals: most.append(engine.open))
    assert max(most) <= 3
    assert len(most) == 21


async def test_a_dead_engine_ends_the_run_and_is_no_answer(app, engine, files):
    source, target = files
    write(source, [line("a"), line("b")])
    engine.refuse = EngineDead("gone")
    with pytest.raises(EngineDead):
        await run_batch(app, source, target, at_once=2)
    assert read(target) == []
    engine.refuse = None
    assert (await run_batch(app, source, target, at_once=2)).answered == 2


async def test_files_that_cannot_be_used(app, files):
    source, target = files
    write(source, [line("a")])
    with pytest.raises(ConfigError, match="is the input"):
        await run_batch(app, source, source, at_once=1)
    target.write_text("my diary\n")
    with pytest.raises(ConfigError, match="Line 1"):
        await run_batch(app, source, target, at_once=1)
    assert target.read_text() == "my diary\n"


def test_lines_are_read_one_at_a_time(tmp_path):
    source = write(tmp_path / "in.jsonl", [line("a"), "nonsense"])
    lines = read_lines(source)
    assert next(lines).custom_id == "a"
    assert next(lines).problem is not None
