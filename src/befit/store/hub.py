"""What a repository on the Hugging Face Hub, or on a mirror of it, holds, and bytes of its files."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote

from befit.errors import CorruptFile, DownloadError
from befit.store.hub_http import COMMIT, DIGEST, TIMEOUT_SECONDS, auth_headers, stream, translated
from befit.store.repository import Repository, is_inside

_MAX_JSON = 64 << 20


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
    known = commit if isinstance(commit, str) and COMMIT.fullmatch(commit) else None
    return Listing(repository, known, {each.path: each for each in found if is_inside(each.path)})


def _remote_file(fields: dict[str, Any]) -> RemoteFile:
    large = fields.get("lfs")
    large = large if isinstance(large, dict) else {}
    size = large.get("size", fields.get("size"))
    named = large.get("sha256") or large.get("oid") or fields.get("blobId")
    digest = named.removeprefix("sha256:") if isinstance(named, str) else ""
    return RemoteFile(
        str(fields.get("rfilename")),
        size if isinstance(size, int) and size >= 0 else None,
        digest if DIGEST.fullmatch(digest) else None,
    )


def describe_file(repository: Repository, path: str) -> tuple[RemoteFile, str | None]:
    """Size and digest of a file, and the commit, from the headers that the hub sends with it (`X-Linked-Etag`)."""
    from huggingface_hub import get_hf_file_metadata

    url = repository.url(path)
    with translated(repository, url):
        found = get_hf_file_metadata(url, timeout=TIMEOUT_SECONDS, endpoint=repository.endpoint, headers=auth_headers())
    digest = found.etag if found.etag and DIGEST.fullmatch(found.etag) else None
    commit = found.commit_hash if found.commit_hash and COMMIT.fullmatch(found.commit_hash) else None
    return RemoteFile(path, found.size, digest), commit


def read_file(repository: Repository, path: str, start: int = 0, count: int = _MAX_JSON) -> tuple[bytes, int]:
    """Bytes start to start+count of a file, as far as it goes, and the file's length."""
    return _read(repository, repository.url(path), start, count)


def _read(repository: Repository, url: str, start: int, count: int) -> tuple[bytes, int]:
    with stream(repository, url, start, count) as answer:
        skip, data = start - answer.start, bytearray()
        for chunk in answer.chunks:
            data += chunk[skip:] if skip > 0 else chunk
            skip = max(0, skip - len(chunk))
            if len(data) >= count:
                break
        return bytes(data[:count]), start + len(data) if answer.total is None else answer.total


def parse_json(data: bytes, where: str) -> Any:
    """What a JSON file says."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise CorruptFile(f"{where}: {len(data)} bytes that are no JSON; try again.") from None
