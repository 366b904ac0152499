"""Many clients on a real server for a while: every answer is compared with what the same request gets alone.

Clients take answers whole, as streams, and leave in the middle of them. What is wrong is kept in words; so are the
server's memory over time, latencies, and what is left when all is over.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
from asks import PROTOCOLS, Ask, Texts

WINDOWS = 6
LEAVES, STREAMS = 0.2, 0.6
KEPT = 20


@dataclass
class Result:
    """What came of it. memory: (seconds, bytes resident); latencies: (seconds since the start, seconds it took)."""

    done: Counter[str] = field(default_factory=Counter)
    left_early: int = 0
    wrong: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    latencies: list[tuple[float, float]] = field(default_factory=list)
    memory: list[tuple[float, int]] = field(default_factory=list)
    seconds: float = 0.0
    left_over: str = ""
    counters: dict[str, float] = field(default_factory=dict)

    def windows(self) -> list[dict[str, float]]:
        """p50 and p99 of the latencies, in seconds, in equal parts of the time."""
        found = []
        for number in range(WINDOWS):
            low, high = (self.seconds * part / WINDOWS for part in (number, number + 1))
            took = sorted(spent for at, spent in self.latencies if low <= at < high)
            if took:
                p99 = took[min(len(took) - 1, int(len(took) * 0.99))]
                found.append({"from_s": low, "answers": len(took), "p50_s": took[len(took) // 2], "p99_s": p99})
        return found

    def drift(self) -> float:
        """Growth of the resident memory from the second sixth of the time to the last, as a share."""
        early = [size for at, size in self.memory if self.seconds / 6 <= at < self.seconds / 3]
        late = [size for at, size in self.memory if at >= self.seconds * 5 / 6]
        return sum(late) / len(late) / (sum(early) / len(early)) - 1 if early and late else 0.0


class Soak:
    """Load on the server at `url`."""

    def __init__(self, url: str, asks: list[Ask], *, clients: int, seed: int) -> None:
        self.url = url
        self.asks = asks
        self.clients = clients
        self.result = Result()
        self._rng = random.Random(seed)
        self._expected: dict[int, Texts] = {}

    async def run(self, seconds: float, memory: Callable[[], int]) -> Result:
        """Ask everything alone, then all at once for so many seconds; memory() is the server's, in bytes."""
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=self.clients)
        async with httpx.AsyncClient(base_url=self.url, timeout=300, limits=limits) as http:
            for ask in self.asks:
                self._expected[ask.number] = await self._whole(http, ask, "")
            begin = time.monotonic()
            watch = asyncio.ensure_future(self._watch(begin, memory))
            await asyncio.gather(*(self._client(http, begin, seconds) for _ in range(self.clients)))
            self.result.seconds = time.monotonic() - begin
            watch.cancel()
            await self._settle(http)
        return self.result

    async def _client(self, http: httpx.AsyncClient, begin: float, seconds: float) -> None:
        while time.monotonic() - begin < seconds:
            ask, dice = self._rng.choice(self.asks), self._rng.random()
            salt = str(self._rng.random()) if self._rng.random() < 0.4 else ""
            started = time.monotonic()
            try:
                if dice < LEAVES:
                    await self._leave(http, ask, salt, self._rng.randint(0, 6))
                    continue
                found = await (self._streamed if dice < STREAMS else self._whole)(http, ask, salt)
            except (httpx.HTTPError, ValueError, LookupError, TypeError) as error:
                self._note(self.result.errors, f"{ask}: {error!r}")
                continue
            self.result.latencies.append((started - begin, time.monotonic() - started))
            self.result.done[ask.kind] += 1
            self._check(ask, found, whole=True)

    async def _whole(self, http: httpx.AsyncClient, ask: Ask, salt: str) -> Texts:
        protocol = PROTOCOLS[ask.protocol]
        answer = await http.post(protocol.path, json=ask.request(stream=False, salt=salt))
        if answer.status_code != 200:
            raise ValueError(f"{answer.status_code}: {answer.text[:300]}")
        return protocol.whole(answer.json())

    async def _streamed(self, http: httpx.AsyncClient, ask: Ask, salt: str) -> Texts:
        texts = [""] * len(self._expected[ask.number])
        async for choice, piece in self._pieces(http, ask, salt):
            texts[choice] += piece
        return tuple(texts)

    async def _leave(self, http: httpx.AsyncClient, ask: Ask, salt: str, after: int) -> None:
        """Close the connection after some pieces, which have to be a beginning of the right answer."""
        texts = [""] * len(self._expected[ask.number])
        seen = 0
        async for choice, piece in self._pieces(http, ask, salt):
            texts[choice] += piece
            seen += 1
            if seen > after:
                break
        self.result.left_early += 1
        self._check(ask, tuple(texts), whole=False)

    async def _pieces(self, http: httpx.AsyncClient, ask: Ask, salt: str) -> AsyncIterator[tuple[int, str]]:
        protocol = PROTOCOLS[ask.protocol]
        body = ask.request(stream=True, salt=salt)
        async with http.stream("POST", protocol.stream_path, json=body) as answer:
            if answer.status_code != 200:
                raise ValueError(f"{answer.status_code}: {(await answer.aread())[:300]!r}")
            async for line in answer.aiter_lines():
                data = line.removeprefix("data: ")
                if data.startswith("{"):
                    event: Any = json.loads(data)
                    if "error" in event:
                        raise ValueError(data[:300])
                    for piece in protocol.piece(event):
                        yield piece

    def _check(self, ask: Ask, found: Texts, *, whole: bool) -> None:
        expected = self._expected[ask.number]
        right = found == expected if whole else all(a.startswith(b) for a, b in zip(expected, found, strict=True))
        if not right:
            self._note(self.result.wrong, f"{ask}: {found!r} and not {expected!r}")

    def _note(self, notes: list[str], text: str) -> None:
        notes.append(text if len(notes) < KEPT else "")

    async def _watch(self, begin: float, memory: Callable[[], int]) -> None:
        while True:
            self.result.memory.append((time.monotonic() - begin, memory()))
            await asyncio.sleep(0.5)

    async def _settle(self, http: httpx.AsyncClient) -> None:
        """Wait until nothing runs; what is left after ten seconds is left over."""
        for _ in range(100):
            found = {}
            for line in (await http.get("/metrics")).text.splitlines():
                if line.startswith("befit:") and "{model_name=" in line and line.count('="') == 1:
                    found[line.split("{")[0].removeprefix("befit:")] = float(line.rsplit(" ", 1)[1])
            self.result.counters = found
            names = ("num_requests_running", "num_requests_waiting", "kv_cache_usage_ratio")
            left = {name: found[name] for name in names if found[name]}
            if not left:
                self.result.left_over = ""
                return
            self.result.left_over = str(left)
            await asyncio.sleep(0.1)
