"""In front of all routes: keys, limits, the size of bodies, and a line in the log for each request."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from befit.api.body import LIMIT, MAX_BODY_BYTES
from befit.api.guard.caller import Caller, caller
from befit.api.guard.keys import Keys
from befit.api.guard.limits import Account, Limits
from befit.api.middleware import request_id
from befit.api.problem import Problem
from befit.api.shapes import error_answer
from befit.api.tracing import incoming_trace
from befit.errors import AuthenticationError

log = logging.getLogger("befit.access")

OPEN = frozenset({"/health", "/v1/health", "/version"})
"""What needs no key: balancers and probes have none."""
PAGES = frozenset({"/", "/docs"})
"""What a browser opens without one; the pages hold nothing of the server's and ask for the key that they send."""


@dataclass(frozen=True, slots=True)
class Rules:
    """How a server is guarded. limits: of each key, or of all together without keys. timeout: seconds an answer."""

    keys: Keys = field(default_factory=Keys)
    limits: Limits = field(default_factory=Limits)
    timeout: float | None = None
    max_body: int = MAX_BODY_BYTES
    access_log: bool = False


def is_open(method: str, path: str) -> bool:
    """Whether a request needs no key."""
    return path in OPEN or (path in PAGES and method in ("GET", "HEAD"))


class Guard:
    """ASGI middleware. It tells `generation` of the caller, who is charged there for tokens."""

    def __init__(self, app: ASGIApp, rules: Rules) -> None:
        self.app = app
        self.rules = rules
        self._accounts: dict[str, Account] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request in, or answer it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if self.rules.access_log:
            await self._logged(scope, receive, send)
        else:
            await self._guarded(scope, receive, send)

    async def _guarded(self, scope: Scope, receive: Receive, send: Send) -> str:
        """Returns the name of the key."""
        scope[LIMIT] = self.rules.max_body
        account = None
        try:
            name = self._identify(scope)
            if scope["method"] == "POST":
                account = self._account(name)
                if account is not None:
                    account.enter()
        except Exception as error:
            await error_answer(Problem.of(error), scope["path"])(scope, receive, send)
            return "-"
        counted = account if self.rules.limits.tokens_per_minute is not None else None
        token = caller.set(Caller(name, counted, self.rules.timeout))
        try:
            await self.app(scope, receive, send)
        finally:
            caller.reset(token)
            if account is not None:
                account.leave()
        return name or "-"

    def _identify(self, scope: Scope) -> str:
        if not self.rules.keys.digests or is_open(scope["method"], scope["path"]):
            return ""
        headers = {bytes(name): bytes(value) for name, value in scope["headers"]}
        key = _key(headers)
        if key is None:
            raise AuthenticationError("This server wants an API key; send it as `Authorization: Bearer KEY`.")
        name = self.rules.keys.find(key)
        if name is None:
            raise AuthenticationError("The API key is none of this server's; check it for typing errors.")
        return name

    def _account(self, name: str) -> Account | None:
        limits = self.rules.limits
        if limits.requests_at_once is None and limits.tokens_per_minute is None:
            return None
        return self._accounts.setdefault(name, Account(limits))

    async def _logged(self, scope: Scope, receive: Receive, send: Send) -> None:
        began, status, sent = time.monotonic(), 0, 0

        async def counting(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                sent += len(message.get("body", b""))
            await send(message)

        name = "-"
        try:
            name = await self._guarded(scope, receive, counting)
        finally:
            client = (scope.get("client") or ("-",))[0]
            path = scope["path"][:200].encode("ascii", "backslashreplace").decode()
            trace = incoming_trace(scope["headers"])
            milliseconds = (time.monotonic() - began) * 1e3
            log.info(
                "%s %s %s %s %d %d bytes %.1f ms key %s%s",
                request_id.get(), client, scope["method"], path, status, sent, milliseconds, name,
                f" trace {trace}" if trace else "",
            )  # fmt: skip


def _key(headers: Mapping[bytes, bytes]) -> str | None:
    """The key of a request, as clients of OpenAI and TGI (`authorization`), Anthropic and Azure send it."""
    given = headers.get(b"authorization", b"")
    scheme, _, value = given.partition(b" ")
    if scheme.lower() == b"bearer" and value.strip():
        return value.strip().decode("utf-8", "surrogateescape")
    for name in (b"x-api-key", b"api-key"):
        if headers.get(name):
            return headers[name].decode("utf-8", "surrogateescape")
    return None
