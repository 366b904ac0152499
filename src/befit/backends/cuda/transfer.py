"""Arrays from a file to the device: read into pinned memory, and copied from there while the next piece is read.

Reading costs no page faults, as a mapping's first use would, and a file that someone cuts meanwhile is an error and not
the end of the process.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Protocol

import torch

from befit.errors import CorruptFile

_PIECE = 32 << 20


class Event(Protocol):
    """A point in the device's work."""

    def synchronize(self) -> None:
        """Wait until the device is there."""
        ...


class Transfer:
    """Copies to one device. On a CPU arrays are read to where they stay.

    piece: bytes of each of the two buffers. record: makes an event behind what the device was given so far; None is
    that of a card's current stream, and no buffers on a CPU.
    """

    def __init__(self, device: torch.device, *, piece: int = _PIECE, record: Callable[[], Event] | None = None) -> None:
        self._device = device
        self._piece = piece
        is_card = device.type == "cuda"
        if record is None and is_card:
            record = self._record
        self._event = record
        self._buffers: list[torch.Tensor] = []
        if record is not None:
            self._buffers = [torch.empty(piece, dtype=torch.uint8, pin_memory=is_card) for _ in range(2)]
        self._copied: list[Event | None] = [None for _ in self._buffers]  # behind the copy out of each buffer
        self._turn = 0

    def read(self, file: int, offset: int, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """The array that begins at byte `offset` of the open file. Raises CorruptFile where the file ends before it.

        On a card the copy may not be over: work on the current stream comes after it.
        """
        out = torch.empty(shape, dtype=dtype, device=self._device)
        flat = out.view(-1).view(torch.uint8)
        if self._event is None:
            _fill(file, offset, flat)
            return out
        for start in range(0, len(flat), self._piece):
            part = flat[start : start + self._piece]
            buffer, before = self._buffers[self._turn][: len(part)], self._copied[self._turn]
            if before is not None:
                before.synchronize()
            _fill(file, offset + start, buffer)
            part.copy_(buffer, non_blocking=True)
            self._copied[self._turn] = self._event()
            self._turn = 1 - self._turn
        return out

    def finish(self) -> None:
        """Wait until everything is on the device."""
        for event in self._copied:
            if event is not None:
                event.synchronize()

    def _record(self) -> Event:
        event: Event = torch.cuda.current_stream(self._device).record_event()
        return event


def _fill(file: int, offset: int, target: torch.Tensor) -> None:
    """Read so many bytes into a tensor of bytes in the computer's memory."""
    view = memoryview(target.numpy())
    done = 0
    while done < len(view):
        try:
            count = os.preadv(file, [view[done:]], offset + done)
        except OSError as error:
            raise CorruptFile(f"Packed weights cannot be read: {error.strerror}.") from error
        if not count:
            raise CorruptFile("Packed weights cannot be read: the file ends inside a matrix. Build their folder anew.")
        done += count
