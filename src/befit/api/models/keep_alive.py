"""How long a model stays in memory after its last request: seconds, or a duration as Go writes them."""

from __future__ import annotations

import math
import re

from befit.errors import InvalidRequest

DEFAULT = 300.0
"""Seconds, for a model that was loaded because a request asked for it."""
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PIECE = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)", re.ASCII)
_LONGEST = 100 * 365 * 86400.0


def seconds(given: float | str) -> float | None:
    """Seconds, or None for as long as the server runs, which a negative duration means.

    A number is seconds; a text has a unit with each number, as in `1h30m`, or none. Source: Go's time.ParseDuration,
    and Ollama's `api.Duration`. Raises InvalidRequest.
    """
    value = given if isinstance(given, int | float) else _parsed(given.strip())
    if value is None or math.isnan(value):
        raise InvalidRequest(f"keep_alive is {str(given)[:40]!r}; use seconds, or 5m, 1h30m.", "keep_alive")
    return None if value < 0 or value > _LONGEST else float(value)


def _parsed(text: str) -> float | None:
    try:
        return float(text) if re.fullmatch(r"[+-]?[\d.]+", text, re.ASCII) else _of_units(text)
    except ValueError:
        return None


def _of_units(text: str) -> float | None:
    sign, digits = (-1, text[1:]) if text.startswith("-") else (1, text.removeprefix("+"))
    pieces = _PIECE.findall(digits)
    if not pieces or "".join(map("".join, pieces)) != digits:
        return None
    return sign * sum(float(number) * _UNITS[unit] for number, unit in pieces)
