"""What went wrong with a request, before any protocol has put it into its own shape."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from starlette.exceptions import HTTPException

from befit.api.middleware import request_id
from befit.errors import BefitError, ModelNotFound

log = logging.getLogger(__name__)

RETRY_AFTER_SECONDS = 1
_ROUTE_CODES = {404: "route_not_found", 405: "method_not_allowed"}


@dataclass(frozen=True, slots=True)
class Problem:
    """An HTTP status, a message for people, befit's stable code, and the field to blame if there is one."""

    status: int
    message: str
    code: str
    param: str | None = None
    retry_after: int = RETRY_AFTER_SECONDS

    @classmethod
    def of(cls, error: BaseException) -> Problem:
        """An error that befit did not raise on purpose is logged and not shown."""
        if isinstance(error, BefitError):
            param = "model" if isinstance(error, ModelNotFound) else getattr(error, "param", None)
            wait = getattr(error, "retry_after", RETRY_AFTER_SECONDS)
            return cls(error.status, error.message, error.code, param, wait)
        number = request_id.get()
        log.error("request %s failed", number, exc_info=error)
        message = f"The server failed on this request; its log says why, under request id {number}."
        return cls(500, message, "internal_error")

    @classmethod
    def of_route(cls, error: HTTPException, method: str, path: str) -> Problem:
        """A route that is not there, or does not take the method."""
        if error.status_code == 404:
            message = f"There is no route {method} {path[:200]}."
        elif error.status_code == 405:
            message = f"{path[:200]} does not take {method}."
        else:
            message = str(error.detail)
        return cls(error.status_code, message, _ROUTE_CODES.get(error.status_code, "http_error"))

    @property
    def headers(self) -> dict[str, str] | None:
        """503 and 429 tell the client when to come back."""
        return {"retry-after": str(self.retry_after)} if self.status in (429, 503) else None
