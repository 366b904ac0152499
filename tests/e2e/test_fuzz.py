"""A server withstands what schemathesis makes of its OpenAPI description: `pytest -m fuzz`."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from befit.api.description.examples import BODIES
from support.files import CONTROL, tiny_file
from support.tokenizers import QWEN

from .conftest import ServerProcess

pytestmark = [pytest.mark.fuzz, pytest.mark.timeout(900)]

EXAMPLES = int(os.environ.get("BEFIT_TEST_FUZZ", "120"))
"""Requests to a route that are made at random; many more are made by rule, one for each field and kind of value."""
TGI_FAILED = 424
"""TGI's word for what the server has wrong."""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A model that fills in, with a short context: an answer without a limit is short."""
    model = tiny_file(tmp_path_factory.mktemp("coder") / "tiny.gguf", "qwen2", control=[*CONTROL, *QWEN], context=4096)
    server = ServerProcess(model, "--ctx", "256", "--kv-tokens", "4096", "--no-access-log")
    yield server
    server.until_idle()
    assert server.stop() == 0


def test_no_request_is_the_servers_fault(small: ServerProcess, tmp_path: Path) -> None:
    pytest.importorskip("schemathesis")
    report = tmp_path / "requests.json"
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{small.url}/openapi.json"]
    command += [
        "--checks",
        "not_a_server_error,content_type_conformance,response_schema_conformance",
        "--max-examples",
        str(EXAMPLES),
        "--continue-on-failure",
    ]
    command += ["--suppress-health-check", "all", "--warnings", "off", "--no-color", "--generation-database", "none"]
    command += ["--phases", "examples,coverage,fuzzing", "--request-timeout", "120", "--seed", "1"]
    command += ["--report-har-path", str(report)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-20000:]
    entries = json.loads(report.read_text("utf-8"))["log"]["entries"]
    statuses = Counter(entry["response"]["status"] for entry in entries)
    print(f"\n{statuses.total()} requests, by status: {dict(statuses)}")
    assert statuses[TGI_FAILED] == 0
    assert max(statuses) < 500
    assert statuses.total() >= min(5000, 50 * EXAMPLES)


def test_nor_is_one_that_is_right_but_for_a_field(small: ServerProcess) -> None:
    """A request that works, with one or two of the fields that were made up: refused less early, or not at all."""
    schemathesis = pytest.importorskip("schemathesis")
    description = schemathesis.openapi.from_url(f"{small.url}/openapi.json")
    statuses: Counter[int] = Counter()
    with httpx.Client(base_url=small.url, timeout=120) as client:

        def ask(path: str, case: Any) -> None:
            made = case.body if isinstance(case.body, dict) else {}
            choice = random.Random(repr(made))
            names = choice.sample(sorted(made), min(len(made), choice.randint(1, 2)))
            body = {**BODIES[path], **{name: made[name] for name in names}}
            answer = client.post(path, content=json.dumps(body, default=str))
            statuses[answer.status_code] += 1
            assert answer.status_code < 500, (answer.text, body)
            assert answer.status_code != TGI_FAILED, (answer.text, body)

        many = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None)
        for path in BODIES:
            cases = description[path]["POST"].as_strategy()
            many(given(path=st.just(path), case=cases)(ask))()
    print(f"\n{statuses.total()} requests, by status: {dict(statuses)}")
    assert statuses[200] > statuses.total() / 4
