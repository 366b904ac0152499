"""Asking a running server, for the verbs that do."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

import click

from befit.errors import BefitError

Function = TypeVar("Function", bound=Callable[..., Any])

DEFAULT_URL = "http://127.0.0.1:8000"
_SECONDS = 60.0


def remote_options(function: Function) -> Function:
    """Which server, and the key that it wants."""
    for option in (
        click.option("--api-key", metavar="KEY", envvar="BEFIT_API_KEY", help="The key that the server asks for."),
        click.option("--url", default=DEFAULT_URL, show_default=True, help="Where the server is."),
    ):
        function = option(function)
    return function


def ask(url: str, method: str, path: str, key: str | None, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """The JSON of the server's answer. Raises BefitError with what it says, or why there is none."""
    import urllib.error
    import urllib.request

    headers = {"content-type": "application/json"}
    if key is not None:
        headers["authorization"] = f"Bearer {key.split()[0] if key.split() else ''}"
    data = json.dumps(body).encode() if body is not None else None
    try:
        request = urllib.request.Request(url.rstrip("/") + path, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=_SECONDS) as answer:
            found: dict[str, Any] = json.load(answer)
    except urllib.error.HTTPError as error:
        raise BefitError(f"{url} answers {error.code}: {_message(error.read())}") from None
    except (OSError, ValueError) as error:
        raise BefitError(f"{url} does not answer ({error}); is befit serve running there? --url says where.") from None
    return found


def _message(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return body[:200].decode(errors="replace")
