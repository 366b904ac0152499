"""Reading a request body, up to a size that no text request needs."""

from __future__ import annotations

import asyncio

from starlette.requests import ClientDisconnect, Request

from befit.api.generation import ClientGoneError
from befit.errors import BodyTooLarge, InvalidRequest

MAX_BODY_BYTES = 32 * 1024 * 1024
BODY_SECONDS = 60
"""How long a body may take to arrive."""
LIMIT = "befit.max_body"
"""Where a scope says how many bytes are read, if not MAX_BODY_BYTES."""
_KEPT = "befit.body"


async def read_body(request: Request) -> bytes:
    """The whole body, also when it was read before.

    Raises BodyTooLarge, as early as Content-Length tells, and InvalidRequest for one that does not come in time.
    """
    if (known := request.scope.get(_KEPT)) is not None:
        return bytes(known)
    declared = request.headers.get("content-length", "")
    most = request.scope.get(LIMIT, MAX_BODY_BYTES)
    if declared.isdecimal() and int(declared) > most:
        raise _too_large(declared, most)
    chunks, size = [], 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                size += len(chunk)
                if size > most:
                    raise _too_large(f"over {most}", most)
                chunks.append(chunk)
    except TimeoutError:
        raise InvalidRequest(
            f"Of the body {size} bytes came in {BODY_SECONDS} seconds, and then no end of it; send it faster."
        ) from None
    except ClientDisconnect:
        raise ClientGoneError from None
    body = request.scope[_KEPT] = b"".join(chunks)
    return body


def _too_large(size: str, most: int) -> BodyTooLarge:
    return BodyTooLarge(f"The body is {size} bytes; at most {most} are read. Send less.")
