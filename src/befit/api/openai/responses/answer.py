"""One response while it is made: its object at any time, and the events that tell how it grows.

Events come in OpenAI's order: created, in_progress, those of each item (see `output.py`), and completed or incomplete;
failed after an error. There is none for what was cancelled, so that ends with an incomplete response of that status.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Iterable
from typing import Any

from befit.api.answers import dumps
from befit.api.generation import Deltas, failure
from befit.api.message import MessageParser, Part
from befit.api.openai.logprobs import LogprobWriter
from befit.api.openai.responses.output import Event, Output
from befit.api.openai.responses.request import ResponseRequest
from befit.api.openai.responses.store import RUNNING
from befit.api.openai.usage import Usage
from befit.api.problem import Problem
from befit.engine.outputs import Delta
from befit.sampling import SamplingParams

SUCCESS = ("response.completed", "response.incomplete")
"""The last event of a response that did not fail."""

_ECHOED = ("prompt_cache_key", "prompt_cache_retention", "safety_identifier", "user")


class Answer:
    """Makes the response object `body` and its events from the deltas of one request."""

    def __init__(
        self,
        request: ResponseRequest,
        name: str,
        model: str,
        params: SamplingParams,
        prompt_tokens: int,
        spell: LogprobWriter,
        parser: MessageParser | None,
    ) -> None:
        """parser: takes the message apart, where that is needed."""
        self.request = request
        self.usage = Usage(prompt_tokens)
        self.error: Exception | None = None
        self._parser = parser
        self._output = Output(spell if request.wants_logprobs else None, request.top_logprobs or 0)
        self._reasoning_tokens = 0
        self._sequence = 0
        self.body = _body(request, name, model, params)

    async def events(self, deltas: Deltas) -> AsyncGenerator[tuple[str, bytes], None]:
        """(type, server-sent event) in order; `body` is up to date at each. An error becomes the last event."""
        try:
            yield self._lifecycle("response.created")
            if self.request.background:
                self.body["status"] = "in_progress"
            yield self._lifecycle("response.in_progress")
            reason = None
            async for _, delta in deltas:
                error = failure(delta)
                if error is not None:
                    raise error
                for event in self._rendered(self._output.take(self._parts(delta), delta.logprobs or [])):
                    yield event
                if self._output.thinking:
                    self._reasoning_tokens += len(delta.token_ids)
                reason = delta.finish_reason or reason
            status = "incomplete" if reason == "length" else "completed"
            for event in self._rendered(self._output.finish(status)):
                yield event
            self._finish(status)
            yield self._lifecycle(f"response.{status}")
        except Exception as error:
            self.fail(error)
            yield self._lifecycle("response.failed")

    def _parts(self, delta: Delta) -> list[Part]:
        self.usage.completion += len(delta.token_ids)
        self.usage.cached += delta.cached_tokens
        if self._parser is None:
            return [delta.text] if delta.text or delta.logprobs else []
        parts = self._parser.push(delta.text)
        return parts + self._parser.finish() if delta.finish_reason is not None else parts

    def _finish(self, status: str) -> None:
        self.body.update(status=status, output=self._output.items(status), usage=self._usage())
        if status == "completed":
            self.body["completed_at"] = int(time.time())
        elif status == "incomplete":
            self.body["incomplete_details"] = {"reason": "max_output_tokens"}

    def fail(self, error: Exception) -> None:
        """The response ended with an error."""
        self.error = error
        self._finish("incomplete")
        self.body.update(status="failed", incomplete_details=None)
        self.body["error"] = {"code": "server_error", "message": Problem.of(error).message}

    def cancel(self) -> list[tuple[str, bytes]]:
        """The response was cancelled; what there is of it stays. The last events; none if it had ended already."""
        if self.body["status"] not in RUNNING:
            return []
        events = self._rendered(self._output.finish("incomplete"))
        self._finish("incomplete")
        self.body.update(status="cancelled", incomplete_details=None)
        return [*events, self._lifecycle("response.incomplete")]

    def _usage(self) -> dict[str, Any]:
        usage = self.usage
        return {
            "input_tokens": usage.prompt,
            "input_tokens_details": {"cached_tokens": usage.cached, "cache_write_tokens": 0},
            "output_tokens": usage.completion,
            "output_tokens_details": {"reasoning_tokens": self._reasoning_tokens},
            "total_tokens": usage.prompt + usage.completion,
        }

    def _rendered(self, events: Iterable[Event]) -> list[tuple[str, bytes]]:
        return [self._event(f"response.{kind}", **fields) for kind, fields in events]

    def _lifecycle(self, kind: str) -> tuple[str, bytes]:
        return self._event(kind, response=self.body)

    def _event(self, kind: str, **fields: Any) -> tuple[str, bytes]:
        payload = {"type": kind, "sequence_number": self._sequence, **fields}
        self._sequence += 1
        return kind, f"event: {kind}\ndata: {dumps(payload)}\n\n".encode("ascii")


def _body(request: ResponseRequest, name: str, model: str, params: SamplingParams) -> dict[str, Any]:
    extra = request.model_extra or {}
    return {
        "id": name,
        "object": "response",
        "created_at": int(time.time()),
        "completed_at": None,
        "status": "queued" if request.background else "in_progress",
        "background": bool(request.background),
        "error": None,
        "incomplete_details": None,
        "instructions": request.instructions,
        "max_output_tokens": request.max_output_tokens,
        "max_tool_calls": request.max_tool_calls,
        "metadata": request.metadata or {},
        "model": model,
        "output": [],
        "parallel_tool_calls": request.parallel_tool_calls is not False,
        "previous_response_id": request.previous_response_id,
        "reasoning": {"effort": (request.reasoning or {}).get("effort"), "summary": None},
        "service_tier": "default",
        "store": request.store is not False,
        "temperature": params.temperature,
        "text": {"format": (request.text or {}).get("format") or {"type": "text"}},
        "tool_choice": request.tool_choice or "auto",
        "tools": request.tools or [],
        "top_logprobs": request.top_logprobs or 0,
        "top_p": params.top_p,
        "truncation": request.truncation or "disabled",
        "usage": None,
        **{field: extra.get(field) for field in _ECHOED},
    }
