"""Asking the Hugging Face Hub, or a mirror of it: what a repository holds, and bytes of its files.

`HF_ENDPOINT` names the hub, `HF_TOKEN` (or a login of the hub's own tools) opens gated repositories, `HF_HUB_OFFLINE`
forbids asking; proxies are those of the environment. Requests go through the HTTP session of `huggingface_hub`, so a
client that an organisation has configured is used here too. The token goes to the endpoint only, not to where that
redirects.
"""

from __future__ import annotations

import http.client
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from typing import Any
from urllib.parse import quote

from befit.errors import ConfigError, CorruptFile, DownloadError, ModelNotFound

ENDPOINT = "https://huggingface.co"
TIMEOUT_SECONDS = 10.0
"""For a connection, and for each silence in an answer."""
_PIECE = 1 << 16
_MAX_JSON = 64 << 20
_REF = re.compile(r"(?:hf:)?(?P<repo>[\w.-]+/[\w.-]+?)(?:@(?P<revision>[\w./-]+))?(?::(?P<file>[\w./ -]+))?", re.ASCII)
_REF_LATE = re.compile(r"(?P<front>[^@]+:[^@]+)@(?P<revision>[\w./-]+)", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}", re.ASCII)
_DIGEST = re.compile(r"[0-9a-f]{64}|[0-9a-f]{40}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository at a revision; `file` is the one that the user named, or a quantisation."""

    name: str
    revision: str = "main"
    file: str | None = None

    @property
    def endpoint(self) -> str:
        """Where the hub is."""
        return os.environ.get("HF_ENDPOINT", "").rstrip("/") or ENDPOINT

    def url(self, path: str) -> str:
        """Where a file of this revision is."""
        return f"{self.endpoint}/{self.name}/resolve/{quote(self.revision, safe='')}/{quote(path)}"


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of a repository. `digest` is the SHA-256 of large files (64 digits) and git's SHA-1 of others (40): the
    name under which the hub's cache keeps it. Either is None where the hub does not say."""

    path: str
    size: int | None
    digest: str | None


@dataclass(frozen=True, slots=True)
class Listing:
    """What a repository holds at a revision; `commit` is None where a mirror does not tell it."""

    repository: Repository
    commit: str | None
    files: dict[str, RemoteFile]

    @property
    def pinned(self) -> Repository:
        """The repository at that very commit, which cannot change between two requests."""
        return replace(self.repository, revision=self.commit or self.repository.revision)


def parse(ref: str) -> Repository | None:
    """The repository that `hf:owner/repo[@revision][:file]` or `owner/repo` means, or None.

    The revision may also stand behind the file.
    """
    if late := _REF_LATE.fullmatch(ref.removeprefix("hf:")):
        found = parse(f"hf:{late['front']}")
        return replace(found, revision=late["revision"]) if found else None
    match = _REF.fullmatch(ref)
    if match is None or (os.path.exists(ref) and not ref.startswith("hf:")):
        return None
    if not all(map(_is_inside, (match["repo"], match["revision"] or "main", match["file"] or "x"))):
        return None
    return Repository(match["repo"], match["revision"] or "main", match["file"])


def _is_inside(path: str) -> bool:
    """Whether a path stays below where it begins: what a hub says must not lead anywhere else."""
    parts = path.split("/")
    return all(part.strip(".") and "\0" not in part and "\\" not in part for part in parts)


def offline() -> bool:
    """Whether the hub must not be asked."""
    return os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")


def list_files(repository: Repository) -> Listing:
    """Every file of the repository."""
    url = (
        f"{repository.endpoint}/api/models/{repository.name}/revision/{quote(repository.revision, safe='')}?blobs=true"
    )
    listed = parse_json(_read(repository, url, 0, _MAX_JSON)[0], repository.name)
    files = listed.get("siblings") if isinstance(listed, dict) else None
    if not isinstance(files, list):
        raise DownloadError(f"{repository.name}: the hub's answer lists no files; try again.")
    commit = listed.get("sha")
    found = [_remote_file(each) for each in files if isinstance(each, dict)]
    known = commit if isinstance(commit, str) and _COMMIT.fullmatch(commit) else None
    return Listing(repository, known, {each.path: each for each in found if _is_inside(each.path)})


def _remote_file(fields: dict[str, Any]) -> RemoteFile:
    large = fields.get("lfs")
    large = large if isinstance(large, dict) else {}
    size = large.get("size", fields.get("size"))
    named = large.get("sha256") or large.get("oid") or fields.get("blobId")
    digest = named.removeprefix("sha256:") if isinstance(named, str) else ""
    return RemoteFile(
        str(fields.get("rfilename")),
        size if isinstance(size, int) and size >= 0 else None,
        digest if _DIGEST.fullmatch(digest) else None,
    )


def describe_file(repository: Repository, path: str) -> tuple[RemoteFile, str | None]:
    """Size and digest of a file, and the commit, from the headers that the hub sends with it (`X-Linked-Etag`)."""
    from huggingface_hub import get_hf_file_metadata

    url = repository.url(path)
    with translated(repository, url):
        found = get_hf_file_metadata(url, timeout=TIMEOUT_SECONDS, endpoint=repository.endpoint, headers=_headers())
    digest = found.etag if found.etag and _DIGEST.fullmatch(found.etag) else None
    commit = found.commit_hash if found.commit_hash and _COMMIT.fullmatch(found.commit_hash) else None
    return RemoteFile(path, found.size, digest), commit


def read_file(repository: Repository, path: str, start: int = 0, count: int = _MAX_JSON) -> tuple[bytes, int]:
    """Bytes start to start+count of a file, as far as it goes, and the file's length."""
    return _read(repository, repository.url(path), start, count)


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
    session, headers = _session(), {**_headers(), **headers}
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
    for response in responses:
        for name in ("X-Linked-Etag", "ETag"):
            text = response.headers.get(name, "").removeprefix("W/").strip('"')
            if _DIGEST.fullmatch(text):
                return str(text)
    return None


def _read(repository: Repository, url: str, start: int, count: int) -> tuple[bytes, int]:
    with stream(repository, url, start, count) as answer:
        skip, data = start - answer.start, bytearray()
        for chunk in answer.chunks:
            data += chunk[skip:] if skip > 0 else chunk
            skip = max(0, skip - len(chunk))
            if len(data) >= count:
                break
        return bytes(data[:count]), start + len(data) if answer.total is None else answer.total


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


def _headers() -> dict[str, str]:
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined] # exported lazily

    return dict(build_hf_headers(library_name="befit"))


def parse_json(data: bytes, where: str) -> Any:
    """What a JSON file says."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise CorruptFile(f"{where}: {len(data)} bytes that are no JSON; try again.") from None
