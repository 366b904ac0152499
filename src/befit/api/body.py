"""Reading a request body, up to a size that no text request needs."""

from __future__ import annotations

from starlette.requests import ClientDisconnect, Request

from befit.api.generation import ClientGoneError
from befit.errors import BodyTooLarge

MAX_BODY_BYTES = 32 * 1024 * 1024
_KEPT = "befit.body"


async def read_body(request: Request) -> bytes:
    """The whole body, also when it was read before. Raises BodyTooLarge, as early as Content-Length tells."""
    if (known := request.scope.get(_KEPT)) is not None:
        return bytes(known)
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > MAX_BODY_BYTES:
        raise _too_large(declared)
    chunks, size = [], 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size > MAX_BODY_BYTES:
                raise _too_large(f"over {MAX_BODY_BYTES}")
            chunks.append(chunk)
    except ClientDisconnect:
        raise ClientGoneError from None
    body = request.scope[_KEPT] = b"".join(chunks)
    return body


def _too_large(size: str) -> BodyTooLarge:
    return BodyTooLarge(f"The body is {size} bytes; at most {MAX_BODY_BYTES} are read. Send less.")
