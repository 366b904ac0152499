"""A model that is all arithmetic: its KV cache holds the token ids themselves, in pages.

The next token is a checksum of the whole history *as read back through the block table*, so a wrong page, a stale page
or a wrong position changes the output. With `order`, it is one of the last so many tokens only: then outputs repeat
themselves. `alone` says what a request must give when nothing else runs.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from befit.backends.base import NON_FINITE, OK, VOID, SamplerSpec, StepBatch, StepResult
from befit.config import EngineConfig
from befit.engine.load import LoadedDraft, LoadedModel
from befit.models.program import Attention, Program
from befit.sampling import SamplingParams

EOS = 0
POISON = 1
PIECES = [b"<eos>", b"<nan>", *(bytes([c]) for c in b"abcdefghijklmnopqrstuvwxyz \n"), b"the", b"ab", b"ba"]
PIECES += ["é".encode()[:1], "é".encode()[1:], "本".encode()]
VOCAB = len(PIECES)


class FakeTokenizer:
    """One byte a token for lower-case letters, some longer pieces, and half characters."""

    vocab_size = VOCAB
    bos_id = None
    eos_ids = frozenset({EOS})
    adds_bos = False

    def encode(self, text: str, *, add_special: bool = True, parse_special: bool = True) -> list[int]:
        return [PIECES.index(bytes([byte])) for byte in text.encode() if bytes([byte]) in PIECES]

    def decode(self, ids: list[int], *, skip_special: bool = True) -> str:
        joined = b"".join(self.token_bytes(token, skip_special=skip_special) for token in ids)
        return joined.decode("utf-8", "replace")

    def token_bytes(self, token: int, *, skip_special: bool = True) -> bytes:
        return b"" if skip_special and self.is_special(token) else PIECES[token]

    def token_text(self, token: int) -> str:
        return PIECES[token].decode("utf-8", "replace")

    def token_id(self, spelling: str) -> int | None:
        return PIECES.index(spelling.encode()) if spelling.encode() in PIECES else None

    def is_special(self, token: int) -> bool:
        return token in (EOS, POISON)


@dataclass
class FakeSampler:
    spec: SamplerSpec
    produced: int = 0


def next_token(history: list[int], sampler: FakeSampler, order: int | None = None) -> int:
    """Greedy depends on the history alone; a temperature mixes in the seed. Never the poison, no early stop."""
    seed = sampler.spec.seed & 0xFFFFFFFF if sampler.spec.temperature else 0
    token = zlib.crc32(np.array(history if order is None else history[-order:], np.int32).tobytes(), seed) % VOCAB
    early = sampler.produced < sampler.spec.min_tokens
    while token == POISON or (early and token in sampler.spec.stop_ids):
        token = (token + 1) % VOCAB
    sampler.produced += 1
    return token


@dataclass
class FakeBackend:
    """`fail` is asked before every step whether it should raise; a history with POISON in it has no finite logits."""

    n_blocks: int
    block_size: int = 4
    name: str = "fake"
    fail: Callable[[int], Exception | None] = lambda step: None
    before: Callable[[], None] = lambda: None
    order: int | None = None
    steps: int = 0
    closed: bool = False
    widths: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.tokens = np.full((self.n_blocks, self.block_size), -1, np.int32)
        self.positions = np.full((self.n_blocks, self.block_size), -1, np.int32)

    def new_sampler(self, spec: SamplerSpec, prompt: list[int]) -> FakeSampler:
        if spec.top_k == 13:
            raise ValueError("this backend is superstitious")
        return FakeSampler(spec)

    def step(self, batch: StepBatch) -> StepResult:
        self.steps += 1
        self.before()
        error = self.fail(self.steps)
        if error is not None:
            raise error
        self.widths.append(len(batch.tokens))
        for array in (batch.tokens, batch.positions, batch.query_start, batch.context_len, batch.block_tables):
            assert array.dtype == np.int32
            assert array.flags.c_contiguous
        assert len(batch.rows) == len(batch.targets) == len(batch.samplers) == len(batch.logprobs)
        histories = []
        written: set[tuple[int, int]] = set()
        for i, context in enumerate(batch.context_len.tolist()):
            start, end = batch.query_start[i : i + 2].tolist()
            assert batch.positions[start:end].tolist() == list(range(context - (end - start), context))
            for token, position in zip(
                batch.tokens[start:end].tolist(), batch.positions[start:end].tolist(), strict=True
            ):
                page, offset = batch.block_tables[i, position // self.block_size], position % self.block_size
                assert (page, offset) not in written, "two sequences write one place"
                written.add((page, offset))
                self.tokens[page, offset], self.positions[page, offset] = token, position
        for i, context in enumerate(batch.context_len.tolist()):
            pages = batch.block_tables[i, : -(-context // self.block_size)]
            assert self.positions[pages].ravel()[:context].tolist() == list(range(context)), (
                "a page is not what it should be"
            )
            histories.append(self.tokens[pages].ravel()[:context].tolist())
        return self._sample(batch, histories)

    def _sample(self, batch: StepBatch, histories: list[list[int]]) -> StepResult:
        n = len(batch.rows)
        result = StepResult(
            np.zeros(n, np.int32), np.zeros(n, np.uint8), np.zeros(n, np.float32), np.zeros(n, np.int32), [[]] * n
        )
        drafts = [-1] * n if batch.drafts is None else batch.drafts.tolist()
        for r, row in enumerate(batch.rows.tolist()):
            if r and drafts[r - 1] >= 0:
                assert batch.samplers[r] is batch.samplers[r - 1]
                assert (row, batch.tokens[row]) == (batch.rows[r - 1] + 1, drafts[r - 1])
                if result.status[r - 1] != OK or result.tokens[r - 1] != drafts[r - 1]:
                    result.status[r] = VOID
                    continue
            i = int(np.searchsorted(batch.query_start, row, side="right")) - 1
            history = histories[i][: batch.positions[row] + 1]
            result.status[r] = NON_FINITE if POISON in history else OK
            target = int(batch.targets[r])
            token = next_token(history, batch.samplers[r], self.order) if target < 0 else target
            result.tokens[r] = token
            k = int(batch.logprobs[r])
            if k >= 0:
                result.logprob[r] = score(history, token)
                result.rank[r] = token + 1
                result.top[r] = [(t, score(history, t)) for t in range(k)]
        return result

    def logits(self, batch: StepBatch) -> Any:
        raise NotImplementedError

    def close(self) -> None:
        self.closed = True


def score(history: list[int], token: int) -> float:
    """A log-probability that only this token after this history has."""
    return float(np.float32(-(zlib.crc32(np.array([*history, token], np.int32).tobytes()) % 1000) / 100))


def _program() -> Program:
    attention = Attention("o", "q", "k", "v", 0, n_heads=1, n_kv_heads=1, head_dim=32, scale=1.0)
    return Program("fake", VOCAB, 32, 1, 1 << 20, (attention,))


def _make_model(*, order: int | None = None, draft_order: int | None = None, **changes: Any) -> LoadedModel:
    settings: dict[str, Any] = {
        "ctx": 64,
        "max_seqs": 4,
        "token_budget": 16,
        "block_size": 4,
        "n_blocks": 16,
        "threads": 1,
        "backend": "fake",
        "prefix_cache": True,
        "max_queue": 1000,
        "speculation": "off",
        "draft": None,
    }
    config = EngineConfig(**{**settings, **changes})
    backend = FakeBackend(config.n_blocks, config.block_size, order=order)
    draft = None
    if draft_order is not None:
        other = FakeBackend(config.n_blocks, config.block_size, order=draft_order or order)
        draft = LoadedDraft("draft", _program(), other)
    tokenizer: Any = FakeTokenizer()
    return LoadedModel("fake", Path("fake.gguf"), {}, _program(), tokenizer, backend, config, draft=draft)


@dataclass
class Expected:
    token_ids: list[int]
    text: str
    finish_reason: str
    stop_reason: str | int | None


def _alone(
    prompt: list[int], params: SamplingParams, ctx: int = 64, number: int = 0, order: int | None = None
) -> Expected:
    """Tokens until an end, then the text decoded at once and cut: written to be obviously right."""
    tokenizer = FakeTokenizer()
    eos = set() if params.ignore_eos else {EOS}
    seed = (params.seed or 0) + number
    spec = SamplerSpec(
        temperature=params.temperature,
        seed=seed,
        min_tokens=params.min_tokens,
        stop_ids=tuple(eos | set(params.stop_token_ids)),
    )
    sampler = FakeSampler(spec)
    room = min(params.max_tokens if params.max_tokens is not None else ctx, ctx - len(prompt))
    out: list[int] = []
    while len(out) < room:
        token = next_token(prompt + out, sampler, order)
        out.append(token)
        if token in spec.stop_ids:
            shown = out if params.include_stop_str_in_output else out[:-1]
            return Expected(out, tokenizer.decode(shown), "stop", None if token in eos else token)
        if len(out) > params.min_tokens:
            text, free = _whole(out), _whole(out[: params.min_tokens])
            for end in range(len(free) + 1, len(text) + 1):
                matches = [stop for stop in params.stop if text[:end].endswith(stop)]
                if matches:
                    stop = max(matches, key=len)
                    kept = end if params.include_stop_str_in_output else end - len(stop)
                    return Expected(out, text[:kept], "stop", stop)
    return Expected(out, tokenizer.decode(out), "length", None)


def _whole(ids: list[int]) -> str:
    """The text of ids without a last character that is still incomplete."""
    data = b"".join(FakeTokenizer().token_bytes(token) for token in ids)
    return (data[:-1] if data[-1:] == PIECES[-3] else data).decode("utf-8", "replace")


@pytest.fixture(scope="session")
def make_model() -> Callable[..., LoadedModel]:
    """make_model(order, draft_order, **changes of EngineConfig) -> LoadedModel over a new FakeBackend.

    With draft_order (0: the same model as the target), it has a draft model, another FakeBackend.
    """
    return _make_model


@pytest.fixture(scope="session")
def alone() -> Callable[..., Expected]:
    """alone(prompt, params, ctx, number, order) -> what continuation `number` must be."""
    return _alone


@pytest.fixture(scope="session")
def score_of() -> Callable[[list[int], int], float]:
    """The fake model's log-probability of a token after a history."""
    return score


@contextmanager
def _checked(engine: Any) -> Iterator[None]:
    yield
    engine.scheduler.check_integrity()
    assert engine.scheduler.pool.n_used == 0
    assert not engine.has_work


@pytest.fixture(scope="session")
def nothing_left() -> Callable[[Any], Any]:
    """`with nothing_left(engine):` fails unless all pages are free and all requests over at its end."""
    return _checked
