"""What a server answers before it can serve: 503 to everything, while its model is loaded.

Probes then see a server that is coming up, as with llama.cpp's, and not a refused connection. Only the standard library
is imported: what serves requests is itself imported while this runs.
"""

from __future__ import annotations

import contextlib
import json
import selectors
import socket
import threading
from types import TracebackType

_PROBLEM = {
    "message": "The model is being loaded; try again in a second.",
    "type": "unavailable_error",
    "param": None,
    "code": "model_loading",
}
_BODY = json.dumps({"error": _PROBLEM}, separators=(",", ":")).encode()
_ANSWER = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\nconnection: close\r\n"
    b"content-length: %d\r\n\r\n%s" % (len(_BODY), _BODY)
)
MOST_CLIENTS = 256
"""Connections held at once; more wait in the socket's backlog, and the server itself will answer them."""
_BACKLOG = 2048


class Loading:
    """Listens on a bound socket and answers there, until it is left; the socket stays open and listening.

    An answer goes out when the head of a request is there; the connection is closed when the client has closed it.
    """

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._selector = selectors.DefaultSelector()
        self._wake, self._waker = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="befit-loading", daemon=True)
        self._heads: dict[socket.socket, bytes | None] = {}
        """What came of each client's request; None when it has been answered."""

    def __enter__(self) -> Loading:
        self._listener.setblocking(False)
        self._listener.listen(_BACKLOG)
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._wake, selectors.EVENT_READ)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._waker.send(b"x")
        self._thread.join()
        for client in list(self._heads):
            self._drop(client)
        self._selector.close()
        self._wake.close()
        self._waker.close()

    def _run(self) -> None:
        while True:
            for key, _ in self._selector.select():
                sock = key.fileobj
                assert isinstance(sock, socket.socket)
                if sock is self._wake:
                    return
                if sock is self._listener:
                    self._accept()
                else:
                    self._read(sock)

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
        except OSError:  # it has left already
            return
        client.setblocking(False)
        self._heads[client] = b""
        self._selector.register(client, selectors.EVENT_READ)
        if len(self._heads) >= MOST_CLIENTS:
            self._selector.unregister(self._listener)

    def _read(self, client: socket.socket) -> None:
        try:
            data = client.recv(65536)
        except OSError:
            data = b""
        if not data:
            self._drop(client)
            return
        before = self._heads[client]
        if before is None:
            return  # the rest of a body, read so that closing does not take back the answer
        head = before + data
        if b"\r\n\r\n" in head:
            self._heads[client] = None
            with contextlib.suppress(OSError):
                client.sendall(_ANSWER)
                client.shutdown(socket.SHUT_WR)
        else:
            self._heads[client] = head[-3:]  # its end may be cut anywhere

    def _drop(self, client: socket.socket) -> None:
        full = len(self._heads) >= MOST_CLIENTS
        del self._heads[client]
        self._selector.unregister(client)
        client.close()
        if full:
            self._selector.register(self._listener, selectors.EVENT_READ)
