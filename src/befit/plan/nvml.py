"""NVIDIA's cards in this machine, asked of the driver's own library (NVML), which comes with every driver.

Source: NVML API reference (`nvml.h`). A machine without the library has no cards.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

_MEMORY_CLOCK = 2  # nvmlClockType_t NVML_CLOCK_MEM
_TRANSFERS_A_CLOCK = 2  # GDDR and HBM move data on both edges of the clock that NVML reports


@dataclass(frozen=True, slots=True)
class DetectedCard:
    """A card as its driver sees it: bytes of memory, all and free, and bytes a second (0: not told)."""

    name: str
    memory: int
    free: int
    bandwidth: float


class _Memory(ctypes.Structure):
    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


def detect(library: Any = None) -> list[DetectedCard]:
    """Every card that the driver tells of; none when there is no driver. `library` is for tests."""
    if library is None:
        try:
            library = ctypes.CDLL("libnvidia-ml.so.1")
        except OSError:
            return []
    if library.nvmlInit_v2() != 0:
        return []
    try:
        count = ctypes.c_uint()
        if library.nvmlDeviceGetCount_v2(ctypes.byref(count)) != 0:
            return []
        cards = (_card(library, index) for index in range(count.value))
        return [card for card in cards if card is not None]
    finally:
        library.nvmlShutdown()


def driver_version(library: Any = None) -> str | None:
    """What the driver calls itself, or None without one."""
    if library is None:
        try:
            library = ctypes.CDLL("libnvidia-ml.so.1")
        except OSError:
            return None
    if library.nvmlInit_v2() != 0:
        return None
    try:
        text = ctypes.create_string_buffer(80)
        if library.nvmlSystemGetDriverVersion(text, len(text)) != 0:
            return None
        return text.value.decode(errors="replace")
    finally:
        library.nvmlShutdown()


def _card(library: Any, index: int) -> DetectedCard | None:
    handle = ctypes.c_void_p()
    name = ctypes.create_string_buffer(96)
    memory = _Memory()
    if (
        library.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(handle)) != 0
        or library.nvmlDeviceGetName(handle, name, len(name)) != 0
        or library.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory)) != 0
    ):
        return None
    clock, width = ctypes.c_uint(), ctypes.c_uint()
    told = (
        library.nvmlDeviceGetMaxClockInfo(handle, _MEMORY_CLOCK, ctypes.byref(clock)) == 0
        and library.nvmlDeviceGetMemoryBusWidth(handle, ctypes.byref(width)) == 0
    )
    bandwidth = clock.value * 1e6 * _TRANSFERS_A_CLOCK * width.value / 8 if told else 0.0
    return DetectedCard(name.value.decode(errors="replace"), memory.total, memory.free, bandwidth)
