"""Server-sent events as bytes come in, split anywhere.

Source: WHATWG HTML, "Server-sent events", 9.2.6. Of an event only the data matters here; other fields are dropped.
"""

from __future__ import annotations


class EventParser:
    """`feed` returns the data of the events that the bytes complete."""

    __slots__ = ("_data", "_rest")

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []

    def feed(self, piece: bytes) -> list[bytes]:
        """Data of whole events, lines of one event joined."""
        *lines, self._rest = (self._rest + piece).split(b"\n")
        events = []
        for line in lines:
            if line.endswith(b"\r"):
                line = line[:-1]
            if line.startswith(b"data:"):
                self._data.append(line[6:] if line[5:6] == b" " else line[5:])
            elif not line and self._data:
                events.append(self._data[0] if len(self._data) == 1 else b"\n".join(self._data))
                self._data.clear()
        return events
