"""A hub on this machine: repositories are folders, and it has the faults that a test asks for.

It answers as the Hugging Face Hub does: `/api/models/…/revision/…` lists files with sizes and digests; `/resolve/…`
says `X-Repo-Commit`, `ETag` and, of a large file, `X-Linked-Etag` and `X-Linked-Size`, and redirects to where the bytes
are.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "c0ffee" * 6 + "0000"
LARGE = (".gguf", ".safetensors", ".bin")


class Hub:
    """What the server does and what it was asked. `sent` counts bytes of bodies, `open` those that are being sent.

    ranges       whether it knows ranges
    redirect_to  another server that has the files themselves
    status       every request is answered with this error
    headers      of errors
    faults       called in turn for each request of a file's bytes, with the handler: True when it has answered
    blobs        whether the list of files tells sizes and digests
    digests      what the list says of a file, instead of the truth
    pause        seconds before each piece of a body
    holds_at     how many bytes it sends before the body of a file waits until this is None again
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.url = ""
        self.ranges = True
        self.redirect_to: str | None = None
        self.status: int | None = None
        self.headers: dict[str, str] = {}
        self.faults: list[Callable[[BaseHTTPRequestHandler], bool]] = []
        self.blobs = True
        self.digests: dict[str, str] = {}
        self.commit = COMMIT
        self.pause = 0.0
        self.holds_at: int | None = None
        self.requests: list[tuple[str, str | None, str | None]] = []
        self.sent = self.open = 0

    def fetched(self, file: str) -> list[str | None]:
        """The ranges in which a file was asked for."""
        return [wanted for path, wanted, _ in self.requests if path.endswith(f"/{file}")]


def digest(data: bytes, path: str) -> str:
    """A large file's SHA-256, or what git calls another one."""
    if path.endswith(LARGE):
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


@contextmanager
def serve(root: Path) -> Iterator[Hub]:
    """A hub over the folders OWNER/REPO under `root`, for the length of a `with`."""
    hub = Hub(root)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self._reply(body=False)

        def do_GET(self) -> None:
            self._reply(body=True)

        def _reply(self, *, body: bool) -> None:
            self.close_connection = True
            path = unquote(urlsplit(self.path).path)
            if body:
                hub.requests.append((path, self.headers.get("Range"), self.headers.get("Authorization")))
            if hub.status is not None:
                self._refuse(hub.status)
                return
            listing = re.fullmatch(r"/api/models/([^/]+/[^/]+)/revision/([^/]+)", path)
            if listing and (hub.root / listing[1]).is_dir() and listing[2] in ("main", hub.commit):
                self._answer(self._list(hub.root / listing[1]), body=body, ranged=False)
                return
            found = re.fullmatch(r"/([^/]+/[^/]+)/resolve/(main|[0-9a-f]{40})/(.+)", path)
            file = hub.root / found[1] / found[3] if found else None
            if found is None or file is None or not file.is_file() or found[2] not in ("main", hub.commit):
                self._refuse(404)
                return
            data = file.read_bytes()
            facts = {"X-Repo-Commit": hub.commit, "ETag": f'"{digest(data, found[3])}"'}
            if found[3].endswith(LARGE):
                facts |= {"X-Linked-Etag": facts["ETag"], "X-Linked-Size": str(len(data))}
            elsewhere = hub.redirect_to is not None and hub.url in f"http://{self.headers['Host']}"
            if elsewhere and found[3].endswith((*LARGE, "config.json")):
                self._head(302, {**facts, "Location": f"{hub.redirect_to}{self.path}", "Content-Length": "0"})
            elif body and hub.faults and hub.faults.pop(0)(self):
                return
            else:
                self._answer(data, body=body, ranged=hub.ranges, facts=facts)

        def _list(self, folder: Path) -> bytes:
            files = []
            for file in sorted(path for path in folder.rglob("*") if path.is_file()):
                name, data = str(file.relative_to(folder)), file.read_bytes()
                named = hub.digests.get(name, digest(data, name))
                fields: dict[str, object] = {"rfilename": name}
                if hub.blobs:
                    fields |= {"size": len(data), "blobId": named if len(named) == 40 else "0" * 40}
                    if len(named) == 64:
                        fields["lfs"] = {"sha256": named, "size": len(data), "pointerSize": 130}
                files.append(fields)
            return json.dumps({"sha": hub.commit, "siblings": files}).encode()

        def _refuse(self, status: int) -> None:
            self._head(status, {**hub.headers, "Content-Length": "0"})

        def _head(self, status: int, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Connection", "close")
            self.end_headers()

        def _answer(self, data: bytes, *, body: bool, ranged: bool, facts: dict[str, str] | None = None) -> None:
            total = len(data)
            wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            headers = dict(facts or {})
            status = 200
            if ranged and wanted:
                first, last = int(wanted[1]), min(int(wanted[2] or total), total - 1)
                data = data[first : last + 1]
                headers["Content-Range"] = f"bytes {first}-{last}/{total}"
                status = 206
            self._head(status, {**headers, "Content-Length": str(len(data))})
            if not body:
                return
            hub.open += 1
            try:
                for at in range(0, len(data), 1 << 16):
                    while ranged and hub.holds_at is not None and hub.sent >= hub.holds_at:
                        time.sleep(0.005)
                    time.sleep(hub.pause)
                    self.wfile.write(data[at : at + (1 << 16)])
                    hub.sent += len(data[at : at + (1 << 16)])
            except ConnectionError:
                pass  # the client has read what it wanted
            finally:
                hub.open -= 1

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
