"""A hub on this machine: repositories are folders, files come whole or by range, with the faults a test asks for."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Hub:
    """What the server does and what it was asked. `sent` counts bytes of bodies."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.url = ""
        self.ranges = True
        self.redirect_to: str | None = None
        self.status: int | None = None
        self.requests: list[tuple[str, str | None, str | None]] = []
        self.sent = 0


@contextmanager
def serve(root: Path) -> Iterator[Hub]:
    """A hub over the folders OWNER/REPO under `root`, for the length of a `with`."""
    hub = Hub(root)

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.requests.append((path, self.headers.get("Range"), self.headers.get("Authorization")))
            if hub.status is not None:
                self.send_error(hub.status)
                return
            listing = re.fullmatch(r"/api/models/([^/]+/[^/]+)/revision/main", path)
            if listing:
                folder = hub.root / listing[1]
                files = [{"rfilename": str(f.relative_to(folder)), "size": f.stat().st_size} for f in folder.iterdir()]
                self._answer(json.dumps({"siblings": files}).encode(), ranged=False)
                return
            found = re.fullmatch(r"/([^/]+/[^/]+)/resolve/main/(.+)", path)
            file = hub.root / found[1] / found[2] if found else None
            if file is None or not file.is_file():
                self.send_error(404)
            elif hub.redirect_to is not None and hub.url in f"http://{self.headers['Host']}":
                self.send_response(302)
                self.send_header("Location", hub.redirect_to + self.path)
                self.send_header("Content-Length", "0")
                self.end_headers()
            else:
                self._answer(file.read_bytes(), ranged=hub.ranges)

        def _answer(self, data: bytes, *, ranged: bool) -> None:
            total = len(data)
            wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            if ranged and wanted:
                first, last = int(wanted[1]), min(int(wanted[2]), total - 1)
                data = data[first : last + 1]
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {first}-{last}/{total}")
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            hub.sent += len(data)
            with suppress(ConnectionError):  # the client has read what it wanted
                self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
