"""Requests to the Hugging Face Hub, or a mirror of it, and what its refusals mean.

`HF_ENDPOINT` names the hub, `HF_TOKEN` (or a login of the hub's own tools) opens gated repositories, `HF_HUB_OFFLINE`
forbids asking; proxies are those of the environment. Requests go through the HTTP session of `huggingface_hub`, so a
client that an organisation has configured is used here too. The token goes to the endpoint only, not to where that
redirects.
"""

from __future__ import annotations

import http.client
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

from befit.errors import ConfigError, DownloadError, ModelNotFound
from befit.store.repository import Repository

TIMEOUT_SECONDS = 10.0
"""For a connection, and for each silence in an answer."""
COMMIT = re.compile(r"[0-9a-f]{40}", re.ASCII)
DIGEST = re.compile(r"[0-9a-f]{64}|[0-9a-f]{40}", re.ASCII)
_PIECE = 1 << 16


def offline() -> bool:
    """Whether the hub must not be asked."""
    return os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")


@dataclass(frozen=True, slots=True)
class Answer:
    """A file's bytes on their way. `start` is where they begin, `total` the file's length if that is said, `digest`
    what the hub says the file is."""

    start: int
    total: int | None
    digest: str | None
    chunks: Iterator[bytes]


@contextmanager
def stream(repository: Repository, url: str, start: int, count: int | None = None) -> Iterator[Answer]:
    """Ask for a file from byte `start` on. A server that knows no ranges answers from byte 0.

    Raises Refused for an answer that is none, and DownloadError for a connection that fails, also within the `with`.
    """
    last = "" if count is None else str(start + count - 1)
    wanted = {"Range": f"bytes={start}-{last}"} if start or count is not None else {}
    with translated(repository, url), _get(url, {"Accept-Encoding": "identity", **wanted}) as (response, chunks):
        if response.status_code >= 400:
            raise refusal(repository, url, response)
        ranged = response.status_code == 206
        said = response.headers.get("Content-Range", "") if ranged else ""
        first = re.match(r"bytes (\d+)-", said)
        coded = response.headers.get("Content-Encoding", "identity") != "identity"  # then it is another length
        total = said.rpartition("/")[2] if ranged else "" if coded else response.headers.get("Content-Length", "")
        yield Answer(
            int(first[1]) if first else start if ranged else 0,
            int(total) if total.isdecimal() else None,
            _said_digest([*response.history, response]),
            chunks,
        )


@contextmanager
def _get(url: str, headers: dict[str, str]) -> Iterator[tuple[Any, Iterator[bytes]]]:
    """An answer and its body, by the HTTP library under `huggingface_hub`: httpx since its version 1, requests before.

    The body comes in small pieces: what a large one holds back is lost when the connection breaks.
    """
    session, headers = _session(), {**auth_headers(), **headers}
    if _library(session) == "requests":
        with session.get(url, headers=headers, timeout=TIMEOUT_SECONDS, stream=True) as response:
            yield response, response.iter_content(_PIECE)
    else:
        with session.stream("GET", url, headers=headers, timeout=TIMEOUT_SECONDS, follow_redirects=True) as response:
            yield response, response.iter_bytes()


def _session() -> Any:
    from huggingface_hub.utils import get_session  # type: ignore[attr-defined] # exported lazily

    return get_session()


def _library(session: Any) -> str:
    """The library that a session is of: requests, httpx or httpx2, also where it is of a class derived there."""
    kind = next(each for each in type(session).__mro__ if each.__name__ in ("Session", "Client"))
    return kind.__module__.partition(".")[0]


@cache
def _http_errors() -> tuple[type[Exception], ...]:
    library = _library(_session())
    return (getattr(import_module(library), "RequestException" if library == "requests" else "HTTPError"),)


def _said_digest(responses: list[Any]) -> str | None:
    """What the hub, or who it redirected to, says that the file is.

    A plain ETag counts where it can be git's SHA-1: that of a large file may be any hash that its server likes.
    """
    for response in responses:
        linked, own = (
            response.headers.get(name, "").removeprefix("W/").strip('"') for name in ("X-Linked-Etag", "ETag")
        )
        if DIGEST.fullmatch(linked):
            return str(linked)
        if COMMIT.fullmatch(own):
            return str(own)
    return None


class Refused(DownloadError):
    """The hub answered with an error. `wait`: the seconds after which it asks to be tried again; None: do not."""

    def __init__(self, message: str, wait: float | None) -> None:
        super().__init__(message)
        self.wait = wait


def refusal(repository: Repository, url: str, response: Any) -> DownloadError | ModelNotFound:
    """The error that an answer of the hub with a status of 400 and more means."""
    status, said = response.status_code, response.headers.get("X-Error-Code", "")
    if said == "GatedRepo" or (status == 403 and not said):
        return Refused(
            f"{repository.name} is gated (HTTP {status}): accept its conditions at {repository.endpoint}/"
            f"{repository.name}, then set HF_TOKEN to a token of yours that may read it.",
            None,
        )
    if status in (401, 403):
        return Refused(
            f"{repository.name}: the hub refuses it (HTTP {status}): there is no such repository, or it is private; "
            "check the name, or set HF_TOKEN to a token that may read it.",
            None,
        )
    if status == 404:
        return ModelNotFound(f"{url.partition('?')[0]}: there is no such repository, revision or file.")
    if status in (408, 425, 429) or status >= 500:
        asked = response.headers.get("Retry-After", "")
        wait = float(asked) if asked.isdecimal() else 0.0
        return Refused(f"{url}: HTTP {status} {_reason(status)}; try again later.", wait)
    return Refused(f"{url}: HTTP {status} {_reason(status)}; check the name, and HF_ENDPOINT.", None)


def _reason(status: int) -> str:
    return http.client.responses.get(status, "")


class Disconnected(DownloadError):
    """The connection could not be made, or ended early."""


@contextmanager
def translated(repository: Repository, url: str) -> Iterator[None]:
    """The client's errors as befit's."""
    if offline():
        raise DownloadError(
            f"{repository.name}: HF_HUB_OFFLINE is set, so the hub is not asked; unset it, or name a local file."
        )
    if not url.startswith(("http://", "https://")):
        raise ConfigError(f"HF_ENDPOINT is {repository.endpoint!r}; it must begin with http:// or https://.")
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except HfHubHTTPError as error:
        raise refusal(repository, url, error.response) from None
    except _http_errors() as error:
        reason = str(error) or type(error).__name__
        raise Disconnected(f"{url}: {reason}; check the network, HF_ENDPOINT and the proxy's settings.") from None


def auth_headers() -> dict[str, str]:
    """What befit is called, and the token."""
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined] # exported lazily

    return dict(build_hf_headers(library_name="befit"))
