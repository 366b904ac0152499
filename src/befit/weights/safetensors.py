"""One safetensors file: mapped, and every tensor of its header placed inside the file.

Source: the safetensors format (huggingface/safetensors, README, "Format"). Like the original reader, this one wants the
tensors to fill the file after the header without holes or overlaps.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from befit.errors import CorruptFile
from befit.weights.mapped import map_file
from befit.weights.safetensors_header import LENGTH_BYTES, TensorEntry, header_length, parse_header
from befit.weights.sniff import looks_like
from befit.weights.tensor import U8


@dataclass(frozen=True, slots=True, eq=False)
class SafetensorsFile:
    """A mapped file; `entries` lists its tensors, and `data_start` is where their bytes begin to count."""

    path: Path
    map: mmap.mmap
    bytes: U8
    data_start: int
    entries: dict[str, TensorEntry]

    def raw(self, name: str) -> U8:
        """The bytes of a tensor, uint8 [nbytes], without a copy."""
        entry = self.entries[name]
        return self.bytes[self.data_start + entry.begin : self.data_start + entry.end]

    def release(self, name: str) -> None:
        """Tell the system that the memory behind a tensor is not needed any more; it stays valid."""
        entry = self.entries[name]
        start, end = self.data_start + entry.begin, self.data_start + entry.end
        first_page = start - start % mmap.PAGESIZE
        if end > start:
            self.map.madvise(mmap.MADV_DONTNEED, first_page, end - first_page)


def read_safetensors(path: Path) -> SafetensorsFile:
    """Map a file and read its header, checking all of it. Raises ModelNotFound, ModelError or CorruptFile."""
    data = map_file(path)
    head = bytes(data[:LENGTH_BYTES])
    try:
        length = header_length(head, str(path))
    except CorruptFile as error:
        meaning = looks_like(bytes(data[:512]))
        raise CorruptFile(f"{path}: not a safetensors file: it looks like {meaning}") from None if meaning else error
    start = LENGTH_BYTES + length
    if start > len(data):
        raise CorruptFile(
            f"{path}: the header should end at byte {start} and the file has {len(data)} bytes; fetch it again."
        )
    entries = parse_header(data[LENGTH_BYTES:start], str(path))
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != end:
            raise CorruptFile(
                f"{path}: tensor {name[:100]!r} begins at byte {entry.begin} of the data and the one before it ends at "
                f"{end}; fetch it again."
            )
        end = entry.end
    if start + end != len(data):
        raise CorruptFile(
            f"{path}: the tensors end at byte {start + end} and the file has {len(data)} bytes; fetch it again."
        )
    return SafetensorsFile(path, data, np.frombuffer(data, dtype=np.uint8), start, entries)
