"""The headers of a model on the Hugging Face Hub, or a mirror of it, by range requests: kilobytes, not gigabytes.

`HF_ENDPOINT` names the hub, `HF_TOKEN` opens gated repositories, `HF_HUB_OFFLINE` forbids asking; proxies are those of
the environment. The token goes to the endpoint only, not to where that redirects.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from befit.errors import ConfigError, CorruptFile, DownloadError, ModelNotFound
from befit.weights.safetensors_header import LENGTH_BYTES, TensorEntry, header_length, parse_header

ENDPOINT = "https://huggingface.co"
_TIMEOUT_SECONDS = 10.0
_MAX_JSON = 64 << 20
_GGUF_HEADS = (1 << 20, 8 << 20, 64 << 20)
"""How much of a GGUF file is fetched until its header is whole: large vocabularies take some megabytes."""
_PARALLEL = 8
_REF = re.compile(r"(?:hf:)?(?P<repo>[\w.-]+/[\w.-]+?)(?:@(?P<revision>[\w./-]+))?(?::(?P<file>[\w./ -]+))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository at a revision; `file` is the one that the user named."""

    name: str
    revision: str = "main"
    file: str | None = None

    @property
    def endpoint(self) -> str:
        """Where the hub is."""
        return os.environ.get("HF_ENDPOINT", ENDPOINT).rstrip("/")


def parse(ref: str) -> Repository | None:
    """The repository that `hf:owner/repo[@revision][:file]` or `owner/repo` means, or None."""
    match = _REF.fullmatch(ref)
    if match is None or match["repo"].startswith(".") or (os.path.exists(ref) and not ref.startswith("hf:")):
        return None
    return Repository(match["repo"], match["revision"] or "main", match["file"])


def list_files(repository: Repository) -> dict[str, int | None]:
    """Every file of the repository, and its bytes where the hub says so."""
    path = f"/api/models/{repository.name}/revision/{quote(repository.revision, safe='')}?blobs=true"
    listed = _json(_get(repository, path, 0, _MAX_JSON)[0], repository.name)
    files = listed.get("siblings") if isinstance(listed, dict) else None
    if not isinstance(files, list):
        raise DownloadError(f"{repository.name}: the hub's answer lists no files; try again.")
    return {str(each.get("rfilename")): each.get("size") for each in files if isinstance(each, dict)}


def read_json(repository: Repository, file: str) -> Any:
    """A small JSON file. Raises ModelNotFound when it is not there."""
    return _json(_file(repository, file, 0, _MAX_JSON)[0], f"{repository.name}/{file}")


def read_safetensors(repository: Repository, files: list[str]) -> dict[str, TensorEntry]:
    """The tensors of these files together, by two range requests each."""

    def one(file: str) -> dict[str, TensorEntry]:
        where = f"{repository.name}/{file}"
        length = header_length(_file(repository, file, 0, LENGTH_BYTES)[0], where)
        return parse_header(_file(repository, file, LENGTH_BYTES, length)[0], where)

    with ThreadPoolExecutor(_PARALLEL) as pool:
        parts = list(pool.map(one, files))
    return {name: entry for part in parts for name, entry in part.items()}


def fetch_gguf_head(repository: Repository, file: str, folder: Path) -> Path:
    """A file of full length in `folder` that holds the header of a GGUF file and is empty otherwise.

    It takes the header's room on the disk only. Reading weights from it gives zeros.
    """
    from befit.weights.gguf_part import read_part

    path = folder / Path(file).name
    for count in _GGUF_HEADS:
        data, size = _file(repository, file, 0, count)
        with path.open("wb") as head:
            head.write(data)
            head.truncate(max(size, len(data)))
        try:
            part = read_part(path)
        except CorruptFile:
            if len(data) >= size or count == _GGUF_HEADS[-1]:
                raise
            continue
        # A header that was cut off may still read as one, of empty strings; but then it ends behind what was fetched.
        if min((info.start for info in part.infos.values()), default=0) <= len(data) or len(data) >= size:
            return path
    raise CorruptFile(f"{repository.name}/{file}: the header is longer than {_GGUF_HEADS[-1]} bytes; use another file.")


def temporary_folder() -> tempfile.TemporaryDirectory[str]:
    """Where heads of files lie while they are read."""
    return tempfile.TemporaryDirectory(prefix="befit-plan-")


def _file(repository: Repository, file: str, start: int, count: int) -> tuple[bytes, int]:
    path = f"/{repository.name}/resolve/{quote(repository.revision, safe='')}/{quote(file)}"
    return _get(repository, path, start, count)


def _get(repository: Repository, path: str, start: int, count: int) -> tuple[bytes, int]:
    """Bytes start to start+count of what is there, as far as it goes, and its whole length."""
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        raise DownloadError(f"{repository.name}: HF_HUB_OFFLINE is set, so the hub is not asked; name a local file.")
    url = repository.endpoint + path
    if not url.startswith(("http://", "https://")):
        raise ConfigError(f"HF_ENDPOINT is {repository.endpoint!r}; it must begin with http:// or https://.")
    request = urllib.request.Request(url, headers={"User-Agent": "befit", "Accept-Encoding": "identity"})
    request.add_header("Range", f"bytes={start}-{start + count - 1}")
    if token := os.environ.get("HF_TOKEN"):
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as response:
            ranged = response.status == 206
            if not ranged:  # the server gives all of it: pass over what comes before
                _discard(response, start)
            data = response.read(count)
            total = _total(response.headers, ranged, start + len(data))
    except urllib.error.HTTPError as error:
        raise _refused(repository, path, error) from None
    except OSError as error:
        reason = getattr(error, "reason", error)
        raise DownloadError(f"{url}: {reason}; check the network, HF_ENDPOINT and the proxy's settings.") from None
    return data, total


def _discard(response: Any, count: int) -> None:
    while count > 0 and (piece := response.read(min(count, 1 << 20))):
        count -= len(piece)


def _total(headers: Any, ranged: bool, seen: int) -> int:
    text = headers.get("Content-Range", "").rpartition("/")[2] if ranged else headers.get("Content-Length", "")
    return int(text) if text.isdecimal() else seen


def _refused(repository: Repository, path: str, error: urllib.error.HTTPError) -> Exception:
    if error.code == 404:
        return ModelNotFound(f"{repository.endpoint}{path}: there is no such repository, revision or file.")
    if error.code in (401, 403):
        return DownloadError(
            f"{repository.name}: the hub refuses it (HTTP {error.code}): there is no such repository, or it is private "
            "or gated; accept its conditions and set HF_TOKEN."
        )
    return DownloadError(f"{repository.endpoint}{path}: HTTP {error.code} {error.reason}; try again later.")


def _json(data: bytes, where: str) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise CorruptFile(f"{where}: {len(data)} bytes that are no JSON; try again.") from None
