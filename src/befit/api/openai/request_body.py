"""The body of a request: declared fields are honoured, and the others are sorted by `fields.py`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, PrivateAttr, ValidationError

from befit.api.openai.fields import check_extra
from befit.errors import InvalidRequest

MAX_ERRORS_SHOWN = 10


class RequestBody(BaseModel):
    """Base of all bodies. null means "not given" everywhere."""

    model_config = ConfigDict(extra="allow")

    _ignored: list[str] = PrivateAttr(default_factory=list)

    @property
    def ignored(self) -> list[str]:
        """Names of the fields that were sent and that have no effect."""
        return self._ignored

    def check(self) -> None:
        """Refuse what cannot be honoured (see `fields.py`)."""
        self._ignored = check_extra(self.model_extra or {}, known=type(self).model_fields)


Request = TypeVar("Request", bound=RequestBody)


def parse(kind: type[Request], body: bytes) -> Request:
    """The request in a JSON body. Raises InvalidRequest, naming the first field that is wrong."""
    return _checked(lambda: kind.model_validate_json(body))


def build(kind: type[Request], fields: dict[str, Any]) -> Request:
    """The request with these fields, checked as one that came as JSON."""
    return _checked(lambda: kind.model_validate(fields))


@contextmanager
def renamed(names: Mapping[str, str]) -> Iterator[None]:
    """Within it, an error about a field in `names` names it as another protocol does."""
    try:
        yield
    except InvalidRequest as error:
        own = names.get(error.param or "")
        if own is None:
            raise
        raise type(error)(error.message.replace(error.param or "", own), own) from None


def json_object(body: bytes) -> dict[str, Any]:
    """The fields of a JSON body, unchecked. Raises InvalidRequest for anything else."""
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"The body is not valid JSON: {error}.") from None
    if not isinstance(fields, dict):
        raise InvalidRequest(f"The body is a JSON {type(fields).__name__}; it must be an object.")
    return fields


def _checked(validate: Callable[[], Request]) -> Request:
    try:
        request = validate()
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=False, include_input=False)
        if details[0]["type"] == "json_invalid":
            raise InvalidRequest(f"The body is not valid JSON: {details[0]['msg']}.") from None
        lines = [f"{'.'.join(str(part) for part in one['loc']) or 'body'}: {one['msg']}" for one in details]
        more = len(lines) - MAX_ERRORS_SHOWN
        text = "; ".join(lines[:MAX_ERRORS_SHOWN]) + (f"; and {more} more" if more > 0 else "")
        loc = details[0]["loc"]
        raise InvalidRequest(text + ".", str(loc[0]) if loc else None) from None
    request.check()
    return request
