"""Ids of answers."""

from __future__ import annotations

import re
import uuid

from befit.errors import InvalidRequest

_ALLOWED = re.compile(r"[A-Za-z0-9_.:-]{1,128}")


def new_id(prefix: str, asked: str | None = None) -> str:
    """`prefix` and the id that the client asked for, or a random one. Raises InvalidRequest for a strange id."""
    if asked is None:
        return prefix + uuid.uuid4().hex
    if not _ALLOWED.fullmatch(asked):
        raise InvalidRequest(
            f"request_id is {asked[:80]!r}; use 1 to 128 letters, digits and any of _ . : - instead.", "request_id"
        )
    return prefix + asked
