"""Freed memory that the C library keeps for later, and that others on the machine may need now."""

from __future__ import annotations


def trim() -> None:
    """Return freed memory to the system, where its C library can. It takes milliseconds: for what was large."""
    import ctypes

    function = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if function is not None:
        function(0)
