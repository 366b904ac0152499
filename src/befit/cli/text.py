"""Numbers and tables as people read them."""

from __future__ import annotations

from collections.abc import Sequence


def size(count: int) -> str:
    """Bytes in decimal units: 98_362_432 is `98.4 MB`."""
    return _scaled(count, ("B", "kB", "MB", "GB", "TB"))


def quantity(count: int) -> str:
    """A large number in words: 134_515_008 is `134.5 M`."""
    return _scaled(count, ("", "k", "M", "B")).rstrip()


def _scaled(count: int, units: Sequence[str]) -> str:
    value, step = float(count), 0
    while value >= 999.95 and step < len(units) - 1:
        value, step = value / 1000, step + 1
    return f"{count} {units[0]}" if step == 0 else f"{value:.1f} {units[step]}"


def table(rows: Sequence[Sequence[str]], *, indent: str = "") -> str:
    """Left-aligned columns, two spaces apart."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(indent + line.rstrip() for line in lines)
