"""Traces: spans of requests, as an OTLP receiver gets them."""

from __future__ import annotations

import logging
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import httpx
import pytest

from befit.api.app import create_app
from befit.api.guard.middleware import Rules
from befit.api.tracing import incoming_trace, to_endpoint
from befit.errors import ConfigError

from .conftest import FakeEngine, PlainTemplate

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
HEADERS = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
CHAT = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 7, "temperature": 0.5}


@pytest.fixture
def receiver():
    """(URL, requests' bodies by path)."""
    bodies: list[tuple[str, bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            bodies.append((self.path, self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", bodies
    server.shutdown()
    server.server_close()
    thread.join()


def value(one):
    kind = one.WhichOneof("value")
    return [value(item) for item in one.array_value.values] if kind == "array_value" else getattr(one, kind)


async def spans_of(receiver, engine, *requests):
    """All spans by name, as (span, attributes)."""
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    import gzip

    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    url, bodies = receiver
    processor = to_endpoint(url)
    app = create_app(engine, served_name="fake", chat_template=PlainTemplate(), rules=Rules(), spans=processor)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://befit") as client:
        for path, body in requests:
            await client.post(path, json=body, headers=HEADERS)
    processor.shutdown()
    found = {}
    for path, body in bodies:
        assert path == "/v1/traces"
        data = gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body
        for resource in ExportTraceServiceRequest.FromString(data).resource_spans:
            names = {pair.key: value(pair.value) for pair in resource.resource.attributes}
            assert names["service.name"] == "befit"
            for scope in resource.scope_spans:
                for span in scope.spans:
                    found[span.name] = span, {pair.key: value(pair.value) for pair in span.attributes}
    return found


@pytest.mark.parametrize("stream", [False, True])
async def test_a_chat_has_spans_of_its_parts(receiver, engine: FakeEngine, stream: bool):
    found = await spans_of(receiver, engine, ("/v1/chat/completions", {**CHAT, "stream": stream}))
    model = f"chat {engine.model.name}"
    assert set(found) == {"POST /v1/chat/completions", model, "queue", "prefill", "decode"}
    request, http = found["POST /v1/chat/completions"]
    assert request.trace_id.hex() == TRACE
    assert request.parent_span_id.hex() == PARENT
    assert http["http.response.status_code"] == 200
    generation, attributes = found[model]
    assert generation.parent_span_id == request.span_id
    assert attributes["gen_ai.operation.name"] == "chat"
    assert attributes["gen_ai.request.max_tokens"] == 7
    assert attributes["gen_ai.request.temperature"] == 0.5
    assert attributes["gen_ai.usage.input_tokens"] > 0
    assert attributes["gen_ai.usage.output_tokens"] > 0
    assert attributes["gen_ai.response.finish_reasons"] in (["stop"], ["length"])
    parts = [found[name][0] for name in ("queue", "prefill", "decode")]
    assert {part.parent_span_id for part in parts} == {generation.span_id}
    ends = [generation.start_time_unix_nano, *(part.end_time_unix_nano for part in parts)]
    assert ends == sorted(ends)
    assert [part.start_time_unix_nano for part in parts] == ends[:3]


async def test_refusals_have_a_span_too(receiver, engine: FakeEngine):
    found = await spans_of(receiver, engine, ("/v1/completions", {"prompt": 5}), ("/nowhere", {}))
    assert found["POST /v1/completions"][1]["http.response.status_code"] == 400
    assert found["POST"][1]["http.response.status_code"] == 404
    assert len(found) == 2


async def test_the_access_log_has_the_trace_that_came_in(engine: FakeEngine, caplog):
    app = create_app(engine, served_name="fake", chat_template=PlainTemplate(), rules=Rules(access_log=True))
    transport = httpx.ASGITransport(app)
    with caplog.at_level(logging.INFO, "befit.access"):
        async with httpx.AsyncClient(transport=transport, base_url="http://befit") as client:
            await client.get("/version", headers=HEADERS)
            await client.get("/version", headers={"traceparent": "nonsense"})
    assert [record.getMessage().endswith(f" trace {TRACE}") for record in caplog.records] == [True, False]


def test_only_valid_traces_count():
    def of(text):
        return incoming_trace([(b"traceparent", text)])

    assert of(HEADERS["traceparent"].encode()) == TRACE
    assert of(b"00-" + b"0" * 32 + b"-00f067aa0ba902b7-01") == of(b"") == of(b"00-xyz") == incoming_trace([]) == ""


def test_without_the_extra_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(ConfigError, match=r"befit\[otel\]"):
        to_endpoint("http://localhost:4318")
    with pytest.raises(ConfigError, match="URL"):
        to_endpoint("localhost:4318")
