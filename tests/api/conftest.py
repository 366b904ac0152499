"""A fake engine behind the real application: a byte is a token, and the reply is what the test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest

from befit.api.app import create_app
from befit.api.chat_messages import plain_messages
from befit.config import EngineConfig
from befit.engine.grammar import Grammars
from befit.engine.observe import EngineStats
from befit.engine.outputs import Delta, TokenLogprob
from befit.sampling import SamplingParams

BOS, END = 256, 257
CTX = 200


class ByteTokenizer:
    vocab_size = 258
    bos_id = BOS
    eos_ids = frozenset({END})
    adds_bos = True
    control_tokens: Mapping[str, int] = {"<|begin|>": BOS, "<|end|>": END}

    def __init__(self) -> None:
        self._special = {BOS: "<|begin|>", END: "<|end|>"}

    def encode(self, text: str, *, add_special: bool = True, parse_special: bool = True) -> list[int]:
        return [BOS] * add_special + list(text.encode())

    def decode(self, ids: list[int], *, skip_special: bool = True) -> str:
        return b"".join(self.token_bytes(token, skip_special=skip_special) for token in ids).decode(errors="replace")

    def token_bytes(self, token: int, *, skip_special: bool = True) -> bytes:
        if token in self._special:
            return b"" if skip_special else self._special[token].encode()
        return bytes([token])

    def token_text(self, token: int) -> str:
        return self.token_bytes(token, skip_special=False).decode(errors="replace")

    def token_id(self, spelling: str) -> int | None:
        return next((token for token, text in self._special.items() if text == spelling), None)

    def is_special(self, token: int) -> bool:
        return token in self._special


class PlainTemplate:
    source = "the test's own"
    text = tool_text = ""
    takes_tools = True
    switches_thinking = True

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def encode(self, messages: list[dict[str, Any]], *, add_special: bool, **kwargs: Any) -> list[int]:
        messages = plain_messages(messages)
        self.calls.append({"messages": messages, **kwargs})
        text = "".join(f"{message['role']}:{message['content']}\n" for message in messages)
        return ByteTokenizer().encode(text, add_special=add_special)


def logprob(token: int, top: int) -> TokenLogprob:
    return TokenLogprob(token, -0.5, 1, [((token + i) % 256, -0.5 - i) for i in range(top)])


@dataclass
class FakeEngine:
    """Replies with `pieces`, a delta each; `refuse` is raised before the first, `fail_after` breaks off midway."""

    pieces: list[str] = field(default_factory=lambda: ["Hel", "lo ", "wörld"])
    refuse: Exception | None = None
    fail_after: int | None = None
    error: Exception | None = None
    gate: asyncio.Event | None = None
    alive: bool = True
    observer: Any = None
    open: int = 0
    seen: list[tuple[list[int], SamplingParams, dict[str, Any]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        config = EngineConfig(
            kv_dtype="f32",
            ctx=CTX,
            max_seqs=4,
            token_budget=64,
            block_size=16,
            n_blocks=64,
            threads=1,
            backend="reference",
            prefix_cache=True,
            max_queue=8,
            speculation="off",
            draft=None,
        )
        program = SimpleNamespace(hidden_size=4, family="fake")
        tokenizer = ByteTokenizer()
        grammars = Grammars(tokenizer, tokenizer.vocab_size)
        self.model = SimpleNamespace(
            name="fake",
            path=Path("fake.gguf"),
            tokenizer=tokenizer,
            config=config,
            metadata={},
            parameters=1_000_000,
            quantisation="F32",
            program=program,
            grammars=grammars,
        )

    @property
    def idle(self) -> bool:
        return self.open == 0

    async def start(self) -> None:
        self.alive = True

    async def drain(self, timeout: float | None = None) -> bool:
        return True

    async def stop(self) -> None:
        assert self.open == 0, "a request is under way"
        self.alive = False

    def stats(self) -> EngineStats:
        return EngineStats(
            running=self.open,
            waiting=1,
            kv_blocks=10,
            kv_blocks_used=5,
            prompt_tokens_total=7,
            drafts_total=4,
            drafted_tokens_total=20,
            accepted_tokens_total=10,
        )

    async def generate(self, prompt_ids: list[int], params: SamplingParams, **options: Any) -> AsyncIterator[Delta]:
        if self.refuse is not None:
            raise self.refuse
        self.seen.append((prompt_ids, params, options))
        self.open += 1
        try:
            if options.get("pooling") is not None:
                await asyncio.sleep(0)
                vector = np.array([len(prompt_ids), prompt_ids[-1], 0, 3], np.float32)
                yield Delta(0, "", [], finish_reason="length", embedding=vector)
                return
            budget = 1000 if params.max_tokens is None else params.max_tokens
            sent = 0
            for number, piece in enumerate(self.pieces):
                if self.gate is not None:
                    await self.gate.wait()
                await asyncio.sleep(0)
                if number == self.fail_after:
                    yield Delta(0, "", [], finish_reason="error", error=self.error)
                    return
                ids = list(piece.encode())[: budget - sent]
                sent += len(ids)
                last = number == len(self.pieces) - 1 or sent >= budget
                for index in range(params.n):
                    delta = Delta(index, bytes(ids).decode(errors="ignore"), ids)
                    if params.logprobs is not None:
                        delta.logprobs = [logprob(token, params.logprobs) for token in ids]
                    if number == 0 and index == 0:
                        delta.cached_tokens = 3
                        if params.prompt_logprobs is not None:
                            top = params.prompt_logprobs
                            delta.prompt_logprobs = [None, *(logprob(token, top) for token in prompt_ids[1:])]
                    if last:
                        delta.finish_reason = "length" if sent >= budget else "stop"
                    yield delta
                if last:
                    return
        finally:
            self.open -= 1


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def template() -> PlainTemplate:
    return PlainTemplate()


@pytest.fixture
def app(engine: FakeEngine, template: PlainTemplate) -> Any:
    return create_app(engine, served_name="fake", chat_template=template, aliases=("other", "org/fake"))


@pytest.fixture(scope="session")
def serve_fake() -> Callable[[], tuple[FakeEngine, Any]]:
    """A fresh engine and its application at each call, for tests that need many."""

    def make() -> tuple[FakeEngine, Any]:
        engine = FakeEngine()
        return engine, create_app(engine, served_name="fake", chat_template=PlainTemplate())

    return make


@pytest.fixture
async def client(app: Any) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://befit") as client:
        yield client
