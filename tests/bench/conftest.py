"""Scripted servers, ended with the test that made them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from support.fake_openai import FakeOpenAI, Pieces, good


@pytest.fixture
def serving() -> Iterator[Callable[..., FakeOpenAI]]:
    """Starts a scripted server."""
    servers = []

    def start(script: Callable[[dict[str, Any]], Pieces] = good) -> FakeOpenAI:
        servers.append(FakeOpenAI(script))
        return servers[-1]

    yield start
    for server in servers:
        server.close()
