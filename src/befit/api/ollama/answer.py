"""One answer as it grows: lines of JSON, and durations in nanoseconds at the end."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

from befit.api.answers import dumps
from befit.api.generation import Deltas, failure
from befit.api.ollama.errors import error_line
from befit.engine.outputs import Delta, TokenLogprob
from befit.tokenizer.base import Tokenizer


class Shape(Protocol):
    """How an endpoint says what more text tells."""

    def push(self, delta: Delta) -> list[dict[str, Any]]:
        """The members of each line for one delta."""
        ...

    def whole(self) -> dict[str, Any]:
        """The members of an answer that is not streamed, and the last line's own, once all has been pushed."""
        ...

    def last(self) -> dict[str, Any]:
        """The members of a stream's last line."""
        ...


@dataclass(slots=True)
class Answer:
    """Counts and times of one answer. began: when the request came (monotonic seconds)."""

    model: str
    prompt_ids: list[int]
    shape: Shape
    began: float
    context: bool = False
    admitted: float = field(default_factory=time.monotonic)
    _first: float | None = None
    _ids: list[int] = field(default_factory=list)
    _reason: str = "stop"

    def _envelope(self, done: bool) -> dict[str, Any]:
        now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        return {"model": self.model, "created_at": now, "done": done}

    def _take(self, delta: Delta) -> list[dict[str, Any]]:
        error = failure(delta)
        if error is not None:
            raise error
        if self._first is None:
            self._first = time.monotonic()
        self._ids += delta.token_ids
        if delta.finish_reason is not None:
            self._reason = "length" if delta.finish_reason == "length" else "stop"
        return self.shape.push(delta)

    def _end(self) -> dict[str, Any]:
        now = time.monotonic()
        first = self._first or now
        end = {
            "done_reason": self._reason,
            "total_duration": _nanoseconds(now - self.began),
            "load_duration": _nanoseconds(self.admitted - self.began),
            "prompt_eval_count": len(self.prompt_ids),
            "prompt_eval_duration": _nanoseconds(first - self.admitted),
            "eval_count": len(self._ids),
            "eval_duration": _nanoseconds(now - first),
        }
        if self.context:
            end["context"] = [*self.prompt_ids, *self._ids]
        return end

    async def whole(self, deltas: Deltas) -> dict[str, Any]:
        """The body of an answer that is not streamed."""
        async for _, delta in deltas:
            self._take(delta)
        return {**self._envelope(True), **self.shape.whole(), **self._end()}

    async def lines(self, deltas: Deltas) -> AsyncGenerator[bytes, None]:
        """The lines of a streamed answer; the last one is `done`."""
        try:
            async for _, delta in deltas:
                lines = [{**self._envelope(False), **members} for members in self._take(delta)]
                if lines:
                    yield "".join(dumps(line) + "\n" for line in lines).encode("ascii")
            yield (dumps({**self._envelope(True), **self.shape.last(), **self._end()}) + "\n").encode("ascii")
        except Exception as error:
            yield error_line(error)


def _nanoseconds(seconds: float) -> int:
    return max(0, int(seconds * 1e9))


def logprobs(entries: list[TokenLogprob] | None, tokenizer: Tokenizer, top: int) -> list[dict[str, Any]]:
    """Ollama's log-probabilities of tokens."""

    def one(token: int, value: float) -> dict[str, Any]:
        raw = tokenizer.token_bytes(token, skip_special=False)
        return {"token": raw.decode(errors="replace"), "logprob": max(value, -9999.0), "bytes": list(raw)}

    return [
        {
            **one(entry.token_id, entry.logprob),
            **({"top_logprobs": [one(*likely) for likely in entry.top[:top]]} if top else {}),
        }
        for entry in entries or ()
    ]
