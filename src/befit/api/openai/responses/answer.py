"""One response while it is made: its object at any time, and the events that tell how it grows.

Events come in OpenAI's order: created, in_progress, output_item.added, content_part.added, output_text.delta (any
number), output_text.done, content_part.done, output_item.done, and completed or incomplete; failed after an error.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator
from typing import Any

from befit.api.answers import dumps
from befit.api.generation import Deltas, failure
from befit.api.openai.logprobs import LogprobWriter
from befit.api.openai.responses.items import Item
from befit.api.openai.responses.request import ResponseRequest
from befit.api.openai.responses.store import RUNNING
from befit.api.openai.usage import Usage
from befit.api.problem import Problem
from befit.engine.outputs import Delta, TokenLogprob
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
    ) -> None:
        self.request = request
        self.usage = Usage(prompt_tokens)
        self.error: Exception | None = None
        self._spell = spell
        self._item_id = f"msg_{uuid.uuid4().hex}"
        self._texts: list[str] = []
        self._logprobs: list[TokenLogprob] = []
        self._sequence = 0
        self.body = _body(request, name, model, params)

    async def events(self, deltas: Deltas) -> AsyncGenerator[tuple[str, bytes], None]:
        """(type, server-sent event) in order; `body` is up to date at each. An error becomes the last event."""
        try:
            yield self._lifecycle("response.created")
            if self.request.background:
                self.body["status"] = "in_progress"
            yield self._lifecycle("response.in_progress")
            item = self._message("in_progress")
            yield self._event("response.output_item.added", output_index=0, item={**item, "content": []})
            where = {"item_id": self._item_id, "output_index": 0, "content_index": 0}
            yield self._event("response.content_part.added", **where, part=item["content"][0])
            reason = None
            async for _, delta in deltas:
                error = failure(delta)
                if error is not None:
                    raise error
                self._take(delta)
                if delta.text or delta.logprobs:
                    logprobs = self._spelled(delta.logprobs or [])
                    yield self._event("response.output_text.delta", **where, delta=delta.text, logprobs=logprobs)
                reason = delta.finish_reason or reason
            item = self._finish("incomplete" if reason == "length" else "completed")
            part = item["content"][0]
            logprobs = part.get("logprobs", [])
            yield self._event("response.output_text.done", **where, text=part["text"], logprobs=logprobs)
            yield self._event("response.content_part.done", **where, part=part)
            yield self._event("response.output_item.done", output_index=0, item=item)
            yield self._lifecycle(f"response.{self.body['status']}")
        except Exception as error:
            self.fail(error)
            yield self._lifecycle("response.failed")

    def _take(self, delta: Delta) -> None:
        self._texts.append(delta.text)
        self._logprobs += delta.logprobs or []
        self.usage.completion += len(delta.token_ids)
        self.usage.cached += delta.cached_tokens

    def _finish(self, status: str) -> Item:
        item = self._message(status)
        self.body.update(status=status, output=[item], usage=self._usage())
        if status == "completed":
            self.body["completed_at"] = int(time.time())
        elif status == "incomplete":
            self.body["incomplete_details"] = {"reason": "max_output_tokens"}
        return item

    def fail(self, error: Exception) -> None:
        """The response ended with an error."""
        self.error = error
        self._finish("incomplete")
        self.body.update(status="failed", incomplete_details=None)
        self.body["error"] = {"code": "server_error", "message": Problem.of(error).message}

    def cancel(self) -> None:
        """The response was cancelled; what there is of it stays. One that has ended is as it is."""
        if self.body["status"] not in RUNNING:
            return
        self._finish("incomplete")
        self.body.update(status="cancelled", incomplete_details=None)

    def _message(self, status: str) -> Item:
        part: Item = {"type": "output_text", "text": "".join(self._texts), "annotations": []}
        if self.request.wants_logprobs:
            part["logprobs"] = self._spelled(self._logprobs)
        return {"id": self._item_id, "type": "message", "role": "assistant", "status": status, "content": [part]}

    def _spelled(self, logprobs: list[TokenLogprob]) -> list[Item]:
        listed: list[Item] = self._spell.chat(logprobs, self.request.top_logprobs or 0)["content"]
        return listed

    def _usage(self) -> dict[str, Any]:
        usage = self.usage
        return {
            "input_tokens": usage.prompt,
            "input_tokens_details": {"cached_tokens": usage.cached, "cache_write_tokens": 0},
            "output_tokens": usage.completion,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": usage.prompt + usage.completion,
        }

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
