"""What real clients send in the end-to-end tests: recorded, written as docs/compatibility.md, compared."""

from __future__ import annotations

import json
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

PAGE = Path(__file__).parents[2] / "docs" / "compatibility.md"
TESTS = Path(__file__).parents[1] / "e2e"
START = "<!-- recorded: BEFIT_TEST_RECORD=1 pytest tests/e2e -->"
AGENTS = {
    "openai": "openai",
    "anthropic": "anthropic",
    "ollama": "ollama",
    "hf_hub": "huggingface_hub",
    "python-requests": "text-generation",
    "aiohttp": "text-generation",
}
"""What the user agents of clients have in them, and the clients' names."""
EDITORS = "editors"
"""Calls of editors, which tests/e2e/test_editor_calls.py makes as the editors do."""
HTTPX = ("httpx", "httpx2")
"""Under these names clients import it: newer ones of OpenAI and Anthropic the second."""
NESTED = ("options", "parameters")

Call = tuple[str, str, frozenset[str]]
"""Client, route and fields of a request that was answered."""


def field_names(body: Any) -> frozenset[str]:
    """The fields that ask for something; null and false are what clients send for "not given"."""
    if not isinstance(body, dict):
        return frozenset()
    names = set()
    for name, value in body.items():
        if name in NESTED and isinstance(value, dict):
            names |= {f"{name}.{inner}" for inner in field_names(value)}
        elif value is not None and value is not False:
            names.add(name)
    return frozenset(names)


def route(method: str, url: str) -> str:
    """Method and path, with {id} for what a client was told before."""
    path = re.sub(r"^/v1/(models|responses)/(?!input_tokens)[^/]+", r"/v1/\1/{id}", urlsplit(url).path)
    path = re.sub(r"^/api/blobs/.+", "/api/blobs/{digest}", path)
    return f"{method.upper()} {path or '/'}"


def client_of(agent: str, test: str) -> str | None:
    """The name of a client; None for calls that are the tests' own."""
    for part, name in AGENTS.items():
        if part in agent.lower():
            return name
    return EDITORS if test.startswith("test_editor_calls.py") else None


def parsed(content: Any) -> Any:
    """A body, if it is JSON."""
    try:
        return json.loads(content)
    except (TypeError, ValueError, UnicodeDecodeError):
        return None


def _content(request: Any) -> bytes:
    """The body of a request of HTTPX; nothing where it is a stream, as an upload is."""
    try:
        return bytes(request.content)
    except RuntimeError:
        return b""


def type_of(module: str, name: str) -> Any:
    """A class of a module that has been imported."""
    return getattr(sys.modules[module], name)


@contextmanager
def recorded(test: str) -> Iterator[list[Call]]:
    """Within it, requests that are answered without an error are noted."""
    calls: list[Call] = []

    def note(agent: str, method: str, url: str, body: Any, status: int) -> None:
        client = client_of(agent, test)
        if status < 400 and client is not None:
            calls.append((client, route(method, url), field_names(body)))

    def of_httpx(request: Any, response: Any) -> None:
        agent = request.headers.get("user-agent", "")
        note(agent, request.method, str(request.url), parsed(_content(request)), response.status_code)

    def sending(client: Any) -> Callable[..., Any]:
        def send(self: Any, request: Any, **options: Any) -> Any:
            response = originals[client, "send"](self, request, **options)
            of_httpx(request, response)
            return response

        return send

    def sending_later(client: Any) -> Callable[..., Any]:
        async def send(self: Any, request: Any, **options: Any) -> Any:
            response = await originals[client, "send"](self, request, **options)
            of_httpx(request, response)
            return response

        return send

    def send_request(self: Any, request: Any, **options: Any) -> Any:
        response = originals[type_of("requests", "Session"), "send"](self, request, **options)
        agent = request.headers.get("user-agent", "")
        note(agent, request.method, request.url, parsed(request.body), response.status_code)
        return response

    async def send_aiohttp(self: Any, method: str, url: Any, **options: Any) -> Any:
        response = await originals[type_of("aiohttp", "ClientSession"), "_request"](self, method, url, **options)
        note("aiohttp", method, str(url), options.get("json"), response.status)
        return response

    makers: dict[tuple[str, str, str], Callable[[Any], Callable[..., Any]]] = {
        ("requests", "Session", "send"): lambda kind: send_request,
        ("aiohttp", "ClientSession", "_request"): lambda kind: send_aiohttp,
    }
    for name in HTTPX:
        makers |= {(name, "Client", "send"): sending, (name, "AsyncClient", "send"): sending_later}
    ours = {}
    for (module, kind, function), make in makers.items():
        if module in sys.modules:  # the clients have imported what they use
            ours[type_of(module, kind), function] = make(type_of(module, kind))
    originals = {place: getattr(*place) for place in ours}
    for (kind, name), function in ours.items():
        setattr(kind, name, function)
    try:
        yield calls
    finally:
        for (kind, name), function in originals.items():
            setattr(kind, name, function)


Rows = dict[tuple[str, str, str], set[str]]
"""(client, route, test) → fields."""


def choose(calls: dict[str, list[Call]]) -> Rows:
    """For each field of each route of each client one test: the one that sends the fewest others with it."""
    senders: dict[tuple[str, str, str], list[tuple[int, str]]] = defaultdict(list)
    for test, made in calls.items():
        for client, path, fields in made:
            for field in fields or {""}:
                senders[client, path, field].append((len(fields), test))
    rows: Rows = defaultdict(set)
    for (client, path, field), tests in senders.items():
        rows[client, path, min(tests)[1]].add(field)
    return rows


def render(rows: Rows) -> str:
    """The tables, one a client."""
    lines = [START]
    for client in sorted({client for client, _, _ in rows}, key=lambda name: (name == EDITORS, name)):
        lines += ["", f"## {client}", "", "| Route | Fields | Test |", "|---|---|---|"]
        for (owner, path, test), fields in sorted(rows.items()):
            if owner == client:
                names = ", ".join(f"`{field}`" for field in sorted(fields - {""})) or "–"
                lines.append(f"| `{path}` | {names} | `{test.replace('|', chr(92) + '|')}` |")
    return "\n".join(lines) + "\n"


def read(text: str) -> Rows:
    """The other way round."""
    rows: Rows = {}
    client = ""
    for line in text.partition(START)[2].splitlines():
        if line.startswith("## "):
            client = line[3:]
        elif line.startswith("| `"):
            path, fields, test = re.split(r" (?<!\\)\| ", line[2:-2])
            test = test.strip("`").replace("\\|", "|")
            rows[client, path.strip("`"), test] = set(re.findall(r"`([^`]+)`", fields)) or {""}
    return rows


def differences(test: str, calls: list[Call], rows: Rows) -> list[str]:
    """What the page says of a test that it did not do, and what it did that the page has no row for."""
    known: dict[tuple[str, str], set[str]] = defaultdict(set)
    for (client, path, _), fields in rows.items():
        known[client, path] |= fields
    done: dict[tuple[str, str], set[str]] = defaultdict(set)
    for client, path, names in calls:
        done[client, path] |= names or {""}
    found = [
        f"{client} sent {field!r} to {path}, which docs/compatibility.md does not have"
        for (client, path), fields in done.items()
        for field in sorted(fields - known[client, path] - {""})
    ]
    for (client, path, named), fields in rows.items():
        if named == test:
            missing = sorted(fields - done[client, path] - {""})
            if missing or (client, path) not in {place for place, names in done.items() if names}:
                found.append(f"docs/compatibility.md says that this test has {client} send {missing} to {path}")
    return found


def exists(test: str) -> bool:
    """Whether there is such a test."""
    file, _, name = test.partition("::")
    path = TESTS / file
    return path.is_file() and f"def {name.partition('[')[0]}(" in path.read_text("utf-8")


def merge(calls: dict[str, list[Call]], rows: Rows) -> Rows:
    """The rows of tests that have not run stay; a field that has one of them gets no other."""
    kept: Rows = {key: fields for key, fields in rows.items() if key[2] not in calls and exists(key[2])}
    known: dict[tuple[str, str], set[str]] = defaultdict(set)
    for (client, path, _), fields in kept.items():
        known[client, path] |= fields
    fresh = choose(calls)
    for (client, path, test), fields in fresh.items():
        if left := fields - known[client, path]:
            kept[client, path, test] = left
    return kept


def write(calls: dict[str, list[Call]]) -> None:
    """Put what a run has recorded into the page."""
    text = PAGE.read_text("utf-8")
    PAGE.write_text(text.partition(START)[0] + render(merge(calls, read(text))), "utf-8")
