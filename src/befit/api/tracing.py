"""OpenTelemetry: a span for each request, and in it one for each prompt with its time in the queue, prefill and decode.

Attributes are those of the semantic conventions for HTTP servers and for generative AI. A W3C `traceparent` that comes
in becomes the parent. What it costs without `--otlp-endpoint` is the look for that header.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from befit.errors import ConfigError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor
    from opentelemetry.trace import Span, Tracer
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from befit.engine.outputs import Delta
    from befit.sampling import SamplingParams

_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")
_CHATS = ("chat", "messages", "responses")

_traced: ContextVar[tuple[Tracer, Span, str] | None] = ContextVar("befit_traced", default=None)
"""The span of the request that is being handled, if there is one, and the request's path."""


def incoming_trace(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The trace id of a request's `traceparent`, "" without a valid one."""
    value = next((value for name, value in headers if name == b"traceparent"), b"")
    found = _TRACEPARENT.fullmatch(value)
    return found[1].decode() if found is not None and found[1].strip(b"0") else ""


def to_endpoint(url: str) -> SpanProcessor:
    """Sends spans to an OTLP receiver, in batches on a thread of its own. Raises ConfigError without the extra `otel`.

    url: as of OTEL_EXPORTER_OTLP_ENDPOINT: `/v1/traces` follows it.
    """
    if not url.startswith(("http://", "https://")):
        raise ConfigError(f"--otlp-endpoint is {url!r}; give a URL such as http://localhost:4318.")
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise ConfigError(
            f"Traces need packages that are not installed ({error}); `pip install 'befit[otel]'` brings them, "
            "or leave --otlp-endpoint and OTEL_EXPORTER_OTLP_ENDPOINT out."
        ) from None
    return BatchSpanProcessor(OTLPSpanExporter(endpoint=f"{url.rstrip('/')}/v1/traces"))


class Tracing:
    """ASGI middleware: a span around every request."""

    def __init__(self, app: ASGIApp, processor: SpanProcessor) -> None:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        import befit

        self.app = app
        # The environment's OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES come first.
        own = Resource({"service.name": "befit", "service.version": befit.__version__})
        provider = TracerProvider(resource=own.merge(Resource.create()) if _named() else Resource.create().merge(own))
        provider.add_span_processor(processor)
        self._tracer = provider.get_tracer("befit", befit.__version__)
        self._propagator = TraceContextTextMapPropagator()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle the request within its span."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        from opentelemetry.trace import SpanKind, Status, StatusCode

        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        method, path = scope["method"], scope["path"]
        span = self._tracer.start_span(
            method,
            context=self._propagator.extract(headers),
            kind=SpanKind.SERVER,
            attributes={"http.request.method": method, "url.path": path[:200], "url.scheme": scope["scheme"]},
        )

        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start":
                span.set_attribute("http.response.status_code", message["status"])
                if message["status"] >= 500:
                    span.set_status(Status(StatusCode.ERROR))
            await send(message)

        token = _traced.set((self._tracer, span, path))
        try:
            await self.app(scope, receive, watched)
        finally:
            _traced.reset(token)
            route = getattr(scope.get("route"), "path", None)
            if route is not None:
                span.update_name(f"{method} {route}")
                span.set_attribute("http.route", route)
            span.end()


def _named() -> bool:
    return "OTEL_SERVICE_NAME" in os.environ or "service.name=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")


def traced(
    source: AsyncGenerator[Delta, None], model: str, prompt_tokens: int, params: SamplingParams, *, embeds: bool
) -> AsyncGenerator[Delta, None]:
    """The deltas of a prompt, and a span of them once they end, if the request has one."""
    current = _traced.get()
    if current is None:
        return source
    tracer, parent, path = current
    operation = "embeddings" if embeds else "chat" if any(word in path for word in _CHATS) else "text_completion"
    attributes: dict[str, Any] = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": "befit",
        "gen_ai.request.model": model,
        "gen_ai.response.model": model,
        "gen_ai.usage.input_tokens": prompt_tokens,
    }
    if not embeds:
        given = {
            "max_tokens": params.max_tokens,
            "temperature": params.temperature,
            "top_p": params.top_p,
            "top_k": params.top_k,
            "seed": params.seed,
            "choice.count": params.n,
        }
        attributes |= {f"gen_ai.request.{name}": value for name, value in given.items() if value is not None}
    return _followed(source, _Generation(tracer, parent, attributes, time.time_ns()))


async def _followed(source: AsyncGenerator[Delta, None], generation: _Generation) -> AsyncGenerator[Delta, None]:
    try:
        async with aclosing(source):
            async for delta in source:
                generation.add(delta)
                yield delta
    except Exception as error:
        generation.error = type(error).__name__
        raise
    finally:
        generation.end()


@dataclass(slots=True)
class _Generation:
    """What is known of one prompt's continuations. Times are of the clock, in nanoseconds."""

    tracer: Tracer
    parent: Span
    attributes: dict[str, Any]
    began: int
    first: int = 0
    queued: int = 0
    tokens: int = 0
    error: str = ""

    def add(self, delta: Delta) -> None:
        if not self.first:
            self.first, self.queued = time.time_ns(), int(delta.queue_seconds * 1e9)
            self.attributes["gen_ai.usage.cache_read.input_tokens"] = delta.cached_tokens
        self.tokens += len(delta.token_ids)
        if delta.finish_reason is not None:
            self.attributes.setdefault("gen_ai.response.finish_reasons", []).append(delta.finish_reason)
        if delta.error is not None:
            self.error = type(delta.error).__name__

    def end(self) -> None:
        from opentelemetry.trace import Status, StatusCode, set_span_in_context

        now, name = time.time_ns(), self.attributes["gen_ai.operation.name"]
        self.attributes["gen_ai.usage.output_tokens"] = self.tokens
        if self.error:
            self.attributes["error.type"] = self.error
        within = set_span_in_context(self.parent)
        title = f"{name} {self.attributes['gen_ai.request.model']}"
        span = self.tracer.start_span(title, within, attributes=self.attributes, start_time=self.began)
        if self.error:
            span.set_status(Status(StatusCode.ERROR))
        inside = set_span_in_context(span)
        started = min(self.began + self.queued, self.first) if self.first else now
        parts = [("queue", self.began, started)]
        if self.first:
            parts += [("prefill", started, self.first), ("decode", self.first, now)]
        for part, begin, end in parts:
            self.tracer.start_span(part, inside, start_time=begin).end(end)
        span.end(now)
