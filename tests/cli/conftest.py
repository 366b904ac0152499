"""A conversation partner without a model: the real session and chat over an engine that says what it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from befit.cli import session
from befit.cli.session import Session
from befit.config import EngineOptions
from befit.engine.outputs import Delta
from befit.sampling import SamplingParams

END = Delta(0, "", [], finish_reason="stop")


class FakeEngine:
    """Plays a script, one list of deltas a request; a callable in it is called. Keeps what it was asked."""

    def __init__(self, ctx: int = 1000) -> None:
        metadata = {"tokenizer.chat_template": "x"}
        config = SimpleNamespace(ctx=ctx)
        self.model = SimpleNamespace(name="fake:1b", metadata=metadata, config=config)
        self.script: list[list[Any]] = []
        self.prompts: list[str] = []
        self.params: list[SamplingParams] = []
        self.refs: list[str] = []
        self.options: list[EngineOptions] = []
        self.templates: list[Path | None] = []
        self.closed = 0

    async def generate(self, ids: Sequence[int], params: SamplingParams) -> AsyncGenerator[Delta, None]:
        self.prompts.append("".join(map(chr, ids)))
        self.params.append(params)
        try:
            for step in self.script.pop(0) if self.script else [Delta(0, "Hello.", [1, 2]), END]:
                await asyncio.sleep(0)
                if callable(step):
                    step()
                    await asyncio.sleep(5)
                else:
                    yield step
        finally:
            self.closed += 1


class FakeTemplate:
    source = "the fake's own"

    @staticmethod
    def encode(messages: list[dict[str, str]]) -> list[int]:
        return [ord(c) for m in messages for c in f"<{m['role'][0]}>{m['content']}"]


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> FakeEngine:
    """The engine that `befit run` gets, with an empty store beside it."""
    fake = FakeEngine()
    monkeypatch.setenv("BEFIT_HOME", str(tmp_path_factory.mktemp("home")))

    @contextmanager
    def open_session(ref: str, options: EngineOptions, template_file: Path | None) -> Iterator[Session]:
        fake.refs.append(ref)
        fake.templates.append(template_file)
        fake.options.append(options)
        with asyncio.Runner() as runner:
            yield Session(runner, fake, FakeTemplate())

    monkeypatch.setattr(session, "open_session", open_session)
    return fake
