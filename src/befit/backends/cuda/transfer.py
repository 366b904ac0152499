"""Arrays from a file to the device: read into pinned memory, and copied from there while the next piece is read.

Reading costs no page faults, as a mapping's first use would, and a file that someone cuts meanwhile is an error and not
the end of the process.
"""

from __future__ import annotations

import os
from typing import Any

import torch

from befit.errors import CorruptFile

_PIECE = 32 << 20


class Transfer:
    """Copies to one device. On a CPU arrays are read to where they stay."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._buffers: list[torch.Tensor] = []
        self._copied: list[Any] = []
        self._turn = 0
        if device.type == "cuda":
            self._buffers = [torch.empty(_PIECE, dtype=torch.uint8, pin_memory=True) for _ in range(2)]
            self._copied = [None, None]  # the event behind the copy that each buffer is read by

    def read(self, file: int, offset: int, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """The array that begins at byte `offset` of the open file. Raises CorruptFile where the file ends before it.

        On a card the copy may not be over: work on the current stream comes after it.
        """
        out = torch.empty(shape, dtype=dtype, device=self._device)
        flat = out.view(-1).view(torch.uint8)
        if not self._buffers:
            _fill(file, offset, flat)
            return out
        for start in range(0, len(flat), _PIECE):
            part = flat[start : start + _PIECE]
            buffer = self._buffers[self._turn][: len(part)]
            if self._copied[self._turn] is not None:
                self._copied[self._turn].synchronize()
            _fill(file, offset + start, buffer)
            part.copy_(buffer, non_blocking=True)
            self._copied[self._turn] = torch.cuda.current_stream(self._device).record_event()
            self._turn = 1 - self._turn
        return out

    def finish(self) -> None:
        """Wait until everything is on the device, and free the buffers."""
        for event in self._copied:
            if event is not None:
                event.synchronize()
        self._buffers, self._copied = [], []


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
