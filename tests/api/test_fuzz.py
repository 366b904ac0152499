"""The server withstands what schemathesis makes of its OpenAPI description: `pytest -m fuzz`."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from befit.api.app import create_app
from befit.api.chat import ChatTemplate
from befit.api.description.examples import BODIES

from .conftest import FakeEngine
from .test_infill import CHATML, TOKENS

schemathesis = pytest.importorskip("schemathesis")
pytestmark = [pytest.mark.fuzz, pytest.mark.timeout(900)]

EXAMPLES = int(os.environ.get("BEFIT_TEST_FUZZ", "150"))
"""Requests to each of the routes."""


def application() -> Any:
    """A model that can do everything: chat, fill in, call tools, keep to a schema."""
    engine = FakeEngine(pieces=["Hel", '{"a": ', "1}"])
    engine.model.tokenizer = TOKENS
    engine.model.metadata = {"tokenizer.chat_template": CHATML, "tokenizer.ggml.eos_token_id": 256}
    engine.model.config = dataclasses.replace(engine.model.config, ctx=4096)
    template = ChatTemplate.from_metadata(engine.model.metadata, TOKENS)
    return create_app(engine, served_name="fake", chat_template=template)  # type: ignore[arg-type]


statuses: Counter[int] = Counter()
overlaid: Counter[int] = Counter()
schema = schemathesis.openapi.from_asgi("/openapi.json", application())


@schema.parametrize()
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_request_is_the_servers_fault(case):
    answer = case.call()
    statuses[answer.status_code] += 1
    assert answer.status_code < 500, answer.text
    assert answer.status_code != 424, "TGI's word for what the server has wrong"


@schema.include(method="POST", func=lambda context: context.operation.path in BODIES).parametrize()
@schema.given(data=st.data())
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
def test_nor_is_one_that_is_right_but_for_a_field(case, data):
    """A request that works, with one or two of the generated fields: refused less early."""
    made = case.body if isinstance(case.body, dict) else {}
    names = data.draw(st.lists(st.sampled_from(sorted(made)), max_size=2)) if made else []
    case.body = {**BODIES[case.operation.path], **{name: made[name] for name in names}}
    answer = case.call()
    overlaid[answer.status_code] += 1
    assert answer.status_code < 500, answer.text
    assert answer.status_code != 424, "TGI's word for what the server has wrong"


def test_that_was_many():
    """Routes without a body are asked once or twice: there is nothing else to ask."""
    print(dict(statuses), dict(overlaid))
    assert statuses.total() + overlaid.total() >= 50 * EXAMPLES
    assert overlaid[200] > overlaid.total() / 4
