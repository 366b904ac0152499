"""A file of requests, answered into another one: OpenAI's batch format, through the application without a socket.

Input: a JSON object a line with `custom_id`, `method` (POST), `url` and `body`. Output: a line for each, in the order
in which they are done, with `response` (status_code, request_id, body) or, for a line that is no request, `error`. A
line is written at once, so that what a run that was ended has written is kept, and the next one goes on behind it.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from starlette.types import ASGIApp, Message, Scope

from befit import disk
from befit.errors import ConfigError, EngineDead

URLS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses")
_NOT_HERE = ("stream", "background")


@dataclass(slots=True)
class Totals:
    """Lines that were answered, that failed, and that an earlier run had done."""

    answered: int = 0
    failed: int = 0
    before: int = 0


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the input: `request`, or what is wrong with it."""

    number: int
    custom_id: str | None
    request: tuple[str, dict[str, Any]] | None
    problem: str | None = None


class LineError(ValueError):
    """A line that is no request."""


async def run_batch(
    app: ASGIApp,
    source: Path,
    target: Path,
    *,
    at_once: int,
    on_done: Callable[[Totals], None] = lambda totals: None,
) -> Totals:
    """Answer every line of `source` that `target` has no line for yet, `at_once` at a time.

    Raises ConfigError when a file cannot be used, DoesNotFit when the disk is full, and EngineDead when nothing can be
    answered any more; what was answered by then is in `target`, in whole lines.
    """
    if target.exists() and source.samefile(target):
        raise ConfigError(f"{target} is the input; name another file for the output.")
    totals = Totals()
    with _open(target) as output:
        done = _done(output, target)
        totals.before = len(done)
        on_done(totals)
        lines = (line for line in read_lines(source) if _key(line) not in done)

        async def work() -> None:
            for line in lines:  # shared: each line goes to one worker
                answer, good = await _answer(app, line)
                _append(output, target, f"{json.dumps(answer)}\n".encode())
                totals.answered += good
                totals.failed += not good
                on_done(totals)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(at_once):
                    group.create_task(work())
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
    return totals


def count_lines(source: Path) -> int:
    """Requests in a file: its lines that are not blank."""
    with source.open("rb") as file:
        return sum(1 for line in file if line.strip())


def read_lines(source: Path) -> Iterator[Line]:
    """The lines of the input that are not blank, read one at a time."""
    seen: set[str] = set()
    with source.open("rb") as file:
        for number, text in enumerate(file, 1):
            if not text.strip():
                continue
            custom_id = None
            try:
                entry = _object(text)
                given = entry.get("custom_id")
                if not isinstance(given, str) or not given:
                    raise LineError("custom_id is missing, or is not a string.")
                if given in seen:
                    raise LineError(f"custom_id {given[:80]!r} was used before; each line needs one of its own.")
                seen.add(given)
                custom_id = given
                yield Line(number, custom_id, _request(entry))
            except LineError as error:
                yield Line(number, custom_id, None, f"Line {number}: {error}")


def _object(text: bytes) -> dict[str, Any]:
    try:
        entry = json.loads(text)
    except (ValueError, RecursionError):
        raise LineError("this is not valid JSON.") from None
    if not isinstance(entry, dict):
        raise LineError("this is not a JSON object.")
    return entry


def _request(entry: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    method, url, body = entry.get("method", "POST"), entry.get("url"), entry.get("body")
    if method != "POST":
        raise LineError(f"method is {str(method)[:60]!r}; it must be POST.")
    if url not in URLS:
        raise LineError(f"url is {str(url)[:80]!r}; it must be one of {', '.join(URLS)}.")
    if not isinstance(body, dict):
        raise LineError("body is missing, or is not an object.")
    asked = [name for name in _NOT_HERE if body.get(name)]
    if asked:
        raise LineError(f"body asks for {asked[0]}, and a batch writes whole answers; leave it out.")
    return url, body


def _key(line: Line) -> str | int:
    return line.number if line.custom_id is None else line.custom_id


async def _answer(app: ASGIApp, line: Line) -> tuple[dict[str, Any], bool]:
    """The line of output, and whether it is an answer. Raises EngineDead."""
    answer: dict[str, Any] = {
        "id": f"batch_req_{uuid.uuid4().hex}",
        "custom_id": line.custom_id,
        "response": None,
        "error": None,
    }
    if line.request is None:
        answer["error"] = {"code": "invalid_line", "message": line.problem, "line": line.number}
        return answer, False
    status, request_id, body = await _post(app, *line.request)
    if status == EngineDead.status and body["error"]["code"] == EngineDead.code:
        raise EngineDead(body["error"]["message"])
    answer["response"] = {"status_code": status, "request_id": request_id, "body": body}
    return answer, status == 200


async def _post(app: ASGIApp, url: str, body: dict[str, Any]) -> tuple[int, str, dict[str, Any]]:
    """(status, request id, body) of the application's answer."""
    scope: Scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": url,
        "raw_path": url.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
        "client": None,
        "server": None,
    }
    sent = False
    status, request_id, parts = 500, "", []

    async def receive() -> Message:
        nonlocal sent
        if sent:
            await asyncio.Event().wait()  # this client never goes away
        sent = True
        return {"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}

    async def send(message: Message) -> None:
        nonlocal status, request_id
        if message["type"] == "http.response.start":
            status = message["status"]
            request_id = dict(message["headers"]).get(b"x-request-id", b"").decode()
        else:
            parts.append(message.get("body", b""))

    await app(scope, receive, send)
    answer: dict[str, Any] = json.loads(b"".join(parts))
    return status, request_id, answer


def _append(output: IO[bytes], target: Path, line: bytes) -> None:
    """Write a line, or nothing of it."""
    whole = os.fstat(output.fileno()).st_size
    try:
        with disk.room(f"A line of {target.name}", target.parent, len(line)):
            disk.write_all(output.fileno(), line)
    except BaseException:
        os.ftruncate(output.fileno(), whole)
        raise


def _open(target: Path) -> IO[bytes]:
    """The output, to read and append; locked, since two runs would answer everything twice."""
    output = target.open("ab+")  # only read through its buffer
    try:
        fcntl.flock(output, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        output.close()
        raise ConfigError(f"{target} is being written by another run; wait for it or name another file.") from None
    return output


def _done(output: IO[bytes], target: Path) -> set[str | int]:
    """What an earlier run has done; half a line at the end, of a run that was killed, is cut off."""
    output.seek(0)
    done: set[str | int] = set()
    whole = 0
    for number, text in enumerate(iter(output.readline, b""), 1):
        if not text.endswith(b"\n"):
            output.truncate(whole)
            break
        whole += len(text)
        try:
            entry = json.loads(text)
            custom_id = entry["custom_id"]
            done.add(entry["error"]["line"] if custom_id is None else str(custom_id))
        except (ValueError, KeyError, TypeError):
            raise ConfigError(
                f"Line {number} of {target} is not an answer of a batch; name another file for the output."
            ) from None
    return done
