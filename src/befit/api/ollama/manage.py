"""Ollama's routes that change what is stored: pull, delete, copy, create and the uploads that go before it."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import threading
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from befit import disk
from befit.api.answers import dumps, json_response
from befit.api.body import read_body
from befit.api.generation import ClientGoneError, while_connected
from befit.api.models.fleet import Fleet
from befit.api.models.library import Library, Recipe, Upload, check_quantisation, stored_name
from befit.api.ollama.errors import error_line
from befit.api.ollama.types import CopyRequest, CreateRequest, ModelRequest, PullRequest
from befit.api.openai.fields import ignored_header
from befit.api.openai.request_body import parse
from befit.api.stream import LineStream
from befit.errors import DoesNotFit, InvalidRequest, ModelNotFound, NotAllowed, Overloaded, UnsupportedField

if TYPE_CHECKING:
    from befit.api.models.member import Member

_OFTEN = 0.1
"""Seconds between two lines about one file."""
_GO = re.compile(r"\{\{-?\s*(\.|\$|if\b|else\b|end\b|range\b|with\b|define\b|block\b|template\b)")
"""What a template in Go's language has and one in Jinja2 does not."""


async def pull(fleet: Fleet, http: Request) -> Response:
    """`POST /api/pull`. When the client goes, the download ends; the next one goes on where it was."""
    request = parse(PullRequest, await read_body(http))
    library = _library(fleet, pull=True)
    name = _named(request.asked)
    work = Work()

    def run() -> None:
        work.say("pulling manifest")
        library.pull(name, work.watch)
        work.say("verifying sha256 digest")  # the bytes were hashed as they came, and compared
        work.say("writing manifest")

    return await _answer(http, work, run, streams=request.stream is not False, ignored=request.ignored)


async def delete(fleet: Fleet, http: Request) -> Response:
    """`DELETE /api/delete`."""
    request = parse(ModelRequest, await read_body(http))
    library = _library(fleet)
    name = _named(request.asked)
    await _let_go(fleet, library, name)
    await asyncio.to_thread(library.remove, name)
    return Response(status_code=200, headers=ignored_header(request.ignored))


async def copy(fleet: Fleet, http: Request) -> Response:
    """`POST /api/copy`."""
    request = parse(CopyRequest, await read_body(http))
    library = _library(fleet)
    source, target = _named(request.source, "source"), _named(request.destination, "destination")
    await _let_go(fleet, library, stored_name(target), must_be_there=False)
    await asyncio.to_thread(library.copy, _place(fleet, source), target)
    return Response(status_code=200, headers=ignored_header(request.ignored))


async def create(fleet: Fleet, http: Request) -> Response:
    """`POST /api/create`: a stored model, or uploaded files, with settings of its own, or rounded to fewer bits."""
    request = parse(CreateRequest, await read_body(http))
    library = _library(fleet)
    recipe = _recipe(request, _place(fleet, request.source or ""))
    await _let_go(fleet, library, recipe.name, must_be_there=False)
    work = Work()
    return await _answer(
        http, work, lambda: library.make(recipe, work.say), streams=request.stream is not False, ignored=request.ignored
    )


async def has_blob(fleet: Fleet, digest: str) -> Response:
    """`HEAD /api/blobs/DIGEST`."""
    return Response(status_code=200 if _library(fleet).blob(digest).is_file() else 404)


async def put_blob(fleet: Fleet, digest: str, http: Request) -> Response:
    """`POST /api/blobs/DIGEST`: the body is a file, of any size, that goes to the disk as it comes."""
    target = _library(fleet).blob(digest)
    length = http.headers.get("content-length", "")
    needed = int(length) if length.isdecimal() else None
    upload: Upload | None = None
    try:
        if needed is not None and needed > disk.free(target.parent):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        upload = await asyncio.to_thread(Upload, target)
        async for chunk in http.stream():
            await asyncio.to_thread(upload.write, chunk)
        await asyncio.to_thread(upload.finish)
    except ClientDisconnect:
        raise ClientGoneError from None
    except OSError as error:
        raise DoesNotFit(
            f"The upload cannot be stored in {target.parent} ({error.strerror}): {disk.amounts(needed, target)}. Make "
            "room there and send it again."
        ) from error
    finally:
        if upload is not None:
            upload.close()
    return Response(status_code=201)


def _library(fleet: Fleet, *, pull: bool = False) -> Library:
    loader = fleet.loader
    if loader is None or loader.library is None:
        raise NotAllowed("Clients do not manage this server's models; start it with --any-model to allow that.")
    if pull and not loader.pull:
        raise NotAllowed("This server fetches no models for clients; start it with --any-model --pull to allow that.")
    return loader.library


def _named(asked: str | None, field: str = "model") -> str:
    if not asked:
        raise InvalidRequest(f"{field} is missing; name a model.", field)
    return asked


async def _let_go(fleet: Fleet, library: Library, asked: str, *, must_be_there: bool = True) -> None:
    """Take the stored model of this name out of memory, since its files go. Raises where that cannot be."""

    def at() -> Any:
        try:
            return library.find(asked)[1]
        except ModelNotFound:
            if must_be_there:
                raise
            return None

    path = await asyncio.to_thread(at)
    found: list[Member] = [member for member in fleet.members if path is not None and member.path == path]
    for member in found:
        if member.listed:
            raise InvalidRequest(f"{member.name} is what this server was started with; it stays.", "model")
        if not await fleet.unload(member):
            raise Overloaded(f"{member.name} is in use; try again when its requests are over.")


def _place(fleet: Fleet, asked: str) -> str | Path:
    """A model's name, or the path of one that the server was started with."""
    return next((member.path for member in fleet.listed if asked in member.names), asked)


def _recipe(request: CreateRequest, source: str | Path) -> Recipe:
    if bool(request.source) == bool(request.files):
        raise InvalidRequest("Give either from, the name of a model, or files.", "from")
    if request.template and _GO.search(request.template):
        raise UnsupportedField("template is in Go's language; write it in Jinja2, or leave it out.", "template")
    if request.template:
        from jinja2.exceptions import TemplateSyntaxError

        from befit.api.chat_sandbox import Sandbox

        try:
            Sandbox({"bos_token": "", "eos_token": ""}).template(request.template)
        except TemplateSyntaxError as error:
            raise InvalidRequest(f"template is not valid Jinja2, line {error.lineno}: {error}.", "template") from None
    if request.quantize:
        check_quantisation(request.quantize)
    parameters = request.parameters.model_dump(exclude_none=True) if request.parameters is not None else None
    settings = {
        "system": request.system,
        "template": request.template,
        "license": "\n".join(request.license) if isinstance(request.license, list) else request.license,
        "parameters": parameters,
    }
    return Recipe(
        stored_name(_named(request.asked)),
        source,
        request.files or {},
        {key: value for key, value in settings.items() if value},
        request.quantize or "",
    )


# -- long work, and lines about it ------------------------------------------------------------------------------------


class _GoneError(Exception):
    """Nobody waits for the work any more."""


@dataclass(slots=True)
class Work:
    """Work on another thread, and what it has to say. It ends at its next word once it is closed."""

    _lines: asyncio.Queue[dict[str, Any] | None] = field(default_factory=asyncio.Queue)
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    _gone: threading.Event = field(default_factory=threading.Event)
    _told: tuple[str, float] = ("", 0.0)
    _task: asyncio.Future[Any] | None = None

    def say(self, status: str, **members: Any) -> None:
        """A line, from the other thread."""
        if self._gone.is_set():
            raise _GoneError
        self._loop.call_soon_threadsafe(self._lines.put_nowait, {"status": status, **members})

    def watch(self, digest: str, total: int, completed: int) -> None:
        """How far a file is; see `store.hub_fetch.Watch`. Not all of it is told."""
        now = time.monotonic()
        if self._gone.is_set():
            raise _GoneError
        last, when = self._told
        if digest != last or now >= when + _OFTEN or completed >= total:
            self._told = (digest, now)
            known = f"sha256:{digest}" if len(digest) == 64 else digest
            self.say(f"pulling {digest[:12]}", digest=known, total=total, completed=completed)

    async def lines(self, run: Callable[[], Any]) -> AsyncGenerator[bytes, None]:
        """Do the work; its lines, the last of which is success or the error."""
        self._task = asyncio.ensure_future(asyncio.to_thread(run))
        self._task.add_done_callback(lambda _: self._lines.put_nowait(None))
        while (line := await self._lines.get()) is not None:
            yield _line(line)
        try:
            self._task.result()
        except Exception as error:
            yield error_line(error)
        else:
            yield _line({"status": "success"})

    async def whole(self, run: Callable[[], Any]) -> dict[str, Any]:
        """Do the work; the answer where no lines are wanted. Raises what it raises."""
        self._task = asyncio.ensure_future(asyncio.to_thread(run))
        await self._task
        return {"status": "success"}

    async def aclose(self) -> None:
        """Nobody listens any more."""
        self._gone.set()
        if self._task is not None:
            self._task.add_done_callback(lambda task: task.cancelled() or task.exception())


def _line(members: Mapping[str, Any]) -> bytes:
    return f"{dumps(members)}\n".encode("ascii")


async def _answer(http: Request, work: Work, run: Callable[[], Any], *, streams: bool, ignored: list[str]) -> Response:
    headers = ignored_header(ignored)
    if streams:
        return LineStream(work.lines(run), work, headers)
    async with aclosing(work):
        body = await while_connected(http.receive, work.whole(run))
    return json_response(body, headers=headers)
